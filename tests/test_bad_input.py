"Folders, files and archives as they come: each mistake gets one sentence, and nothing half-written stays."
import io, os, subprocess, sys, tarfile, warnings, zipfile
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from conftest import cnnfast, cnnfast_here, fails_with
from cnnfast.core.disk import cnnfast_home
from cnnfast.data.download import unpack_archives
from cnnfast.data.pictures import Picture, open_picture
from cnnfast.data.dataset import ImageData
from cnnfast.data.folders import image_folder, image_table, sample_folder

rng = np.random.default_rng(0)
def noise(mode='RGB', size=(20, 16)): return Image.fromarray(rng.integers(0, 256, (*size[::-1], 4), dtype=np.uint8), 'RGBA').convert(mode)

def raises(exc, *words):
    return pytest.raises(exc, match='(?s)' + '.*'.join(words))

# Folders

def test_missing_and_empty(tmp_path):
    with raises(FileNotFoundError, 'nowhere', 'does not exist'): image_folder(tmp_path/'nowhere')
    with raises(ValueError, 'holds no pictures'): image_folder(tmp_path)
    for c in 'ab': (tmp_path/c).mkdir()
    with raises(ValueError, 'holds no pictures'): image_folder(tmp_path)

def test_one_class(photos):
    import shutil
    shutil.rmtree(photos/'temple')
    with raises(ValueError, 'two or more'): image_folder(photos)

def test_class_with_one_picture(photos):
    (photos/'cat').mkdir(); noise().save(photos/'cat'/'1.png')
    with raises(ValueError, r'Too few pictures to split: cat \(1\)'): image_folder(photos)

def test_class_missing_from_train(photos, tmp_path):
    root = tmp_path/'split'
    root.mkdir(); photos.rename(root/'train')
    (root/'test'/'dog').mkdir(parents=True); noise().save(root/'test'/'dog'/'1.png')
    with raises(ValueError, 'no training pictures for dog'): image_folder(root)

def test_given_splits_are_kept(photos, tmp_path):
    root = tmp_path/'split'
    root.mkdir(); photos.rename(root/'train')
    for split in ('val', 'test'):
        for c in ('flower', 'temple'):
            (root/split/c).mkdir(parents=True)
            for o in sorted((root/'train'/c).iterdir())[:10]: o.rename(root/split/c/o.name)
    data = image_folder(root)
    assert list(data.splits) == ['train', 'valid', 'test']
    assert data.counts.values.tolist() == [[227, 10, 10]]*2
    for k,name in dict(train='train', valid='val', test='test').items():
        assert {data.items[int(i)].parent.parent.name for i in data.splits[k]} == {name}
    assert [data.get_y(o) for o in data.items] == [data.vocab[t] for t in data.targs]

def test_other_files_are_named(photos):
    (photos/'temple'/'notes.txt').write_text('mine')
    with pytest.warns(UserWarning, match='notes.txt'): data = image_folder(photos)
    assert len(data) == 494

def test_links(photos):
    "A loop of links is walked once; a link that leads nowhere is named"
    (photos/'temple'/'loop').symlink_to(photos/'temple')
    (photos/'temple'/'gone.png').symlink_to(photos/'nowhere.png')
    with pytest.warns(UserWarning, match='gone.png'): data = image_folder(photos)
    assert len(data) == 494

def test_link_to_itself(photos):
    (photos/'temple'/'me.png').symlink_to(photos/'temple'/'me.png')
    with pytest.warns(UserWarning, match='links to what is there already.*me.png'): assert len(image_folder(photos)) == 494

def test_class_missing_from_valid(photos, tmp_path):
    root = tmp_path/'split'
    root.mkdir(); photos.rename(root/'train')
    (root/'valid'/'flower').mkdir(parents=True); noise().save(root/'valid'/'flower'/'1.png')
    with pytest.warns(UserWarning, match='valid has no pictures of temple'): image_folder(root)

def test_splits_do_not_add_up(photos):
    with raises(ValueError, 'valid_pct . test_pct leave nothing'): image_folder(photos, valid_pct=0.8, test_pct=0.2)
    with raises(ValueError, 'between 0 and 1'): image_folder(photos, test_pct=0)
    data = image_folder(photos)
    train,valid = data.splits['train'],data.splits['valid']
    with raises(ValueError, 'valid shares 1 pictures with another split'): data.new(splits=dict(train=train, valid=[*valid, train[0]]))
    with raises(ValueError, 'there are 494'): data.new(splits=dict(train=train, valid=[494]))
    with raises(ValueError, 'no train split'): data.new(splits=dict(valid=valid))
    with raises(ValueError, '494 pictures, but 493 labels'): data.new(targs=data.targs[1:])

def test_names_that_differ_in_case(photos):
    (photos/'Temple').mkdir(); [noise().save(photos/'Temple'/f'{i}.png') for i in range(9)]
    with raises(ValueError, 'differ only in case', 'Temple and temple'): image_folder(photos)

def test_names_that_are_not_ascii(photos):
    "Letters of any script are fine, from the folder to the table of results; bytes that are no text are not"
    (photos/'temple').rename(photos/'храм 寺院'); (photos/'flower').rename(photos/'fleur séchée')
    for i,o in enumerate(sorted((photos/'храм 寺院').iterdir())[:20]): o.rename(o.with_name(f'снимок-{i}-é.png'))
    data = image_folder(photos)
    assert data.vocab == ['fleur séchée', 'храм 寺院'] and len(data) == 494
    dls = data.dataloaders(bs=32)
    assert list(dls.vocab) == data.vocab and (image_folder(photos).decoded()[0] == data.decoded(cache=False)[0]).all()
    assert list(data.summary().index) == [*data.vocab, 'all']
    if sys.platform != 'linux': return # other file systems do not allow what follows
    os.mkdir(os.fsencode(photos)+b'/caf\xe9'); [noise().save(os.fsdecode(os.fsencode(photos)+b'/caf\xe9/%d.png' % i)) for i in range(9)]
    with raises(ValueError, 'not valid UTF-8', r'caf\\\\xe9|caf\\udce9'): image_folder(photos)

def test_file_names_that_are_no_text(photos):
    if sys.platform != 'linux': pytest.skip('needs a file system that allows them')
    noise(size=(32, 32)).save(os.fsdecode(os.fsencode(photos)+b'/temple/caf\xe9.png'))
    assert len(image_folder(photos).dataloaders(bs=32).train_ds) == len(image_folder(photos).splits['train'])

def test_folder_without_permission():
    import shutil, tempfile
    root = Path(tempfile.mkdtemp()) # pytest's own folders may be closed to other users
    try:
        sample_folder(root/'photos'); root.chmod(0o755); (root/'photos'/'temple').chmod(0)
        if os.getuid() == 0: os.seteuid(65534) # root may read everything
        with raises(PermissionError, 'temple may not be read'): image_folder(root/'photos')
    finally:
        if os.getuid() == 0: os.seteuid(0)
        (root/'photos'/'temple').chmod(0o755); shutil.rmtree(root)

def test_unlabelled_test_folder(photos, tmp_path):
    root = tmp_path/'split'
    root.mkdir(); photos.rename(root/'train'); (root/'test').mkdir()
    for i in range(3): noise(size=(32, 32)).save(root/'test'/f'{i}.png')
    (root/'test'/'about.txt').touch()
    data = image_folder(root)
    assert [o.name for o in data.unlabelled] == ['0.png', '1.png', '2.png'] and list(data.splits) == ['train', 'valid', 'test']

# Tables

@pytest.fixture
def table(photos):
    import pandas as pd
    return pd.DataFrame([(f'{o.parent.name}/{o.name}', o.parent.name, o.stem[:3]) for o in sorted(photos.rglob('*.png'))],
                        columns=['file', 'label', 'row'])

def test_table(table, photos):
    table.to_csv(photos/'labels.csv', index=False)
    data = image_table(photos/'labels.csv')
    assert data.name == 'labels' and data.counts.values.tolist() == image_folder(photos).counts.values.tolist()
    assert [data.get_y(o) for o in data.items] == [o.parent.name for o in data.items]
    lazy = data.dataloaders(bs=16, in_memory=False, num_workers=0)
    assert [int(o[1]) for o in lazy.valid_ds] == data.targs[data.splits['valid']].tolist()
    ids = table.assign(file=[o[:-4] for o in table.file])
    assert list(image_table(ids, photos, suff='.png').items) == list(data.items)

def test_table_groups(table, photos):
    data = image_table(table, photos, group_col='row')
    rows = {k:{data.items[int(i)].stem[:3] for i in v} for k,v in data.splits.items()}
    assert not rows['train'] & rows['valid'] and not rows['train'] & rows['test'] and not rows['valid'] & rows['test']
    torn = table.assign(split=['train', 'valid']*247)
    with raises(ValueError, 'sources stand in more than one of the given splits', 'train and valid'):
        image_table(torn, photos, split_col='split', group_col='row')
    with raises(ValueError, 'Too few sources to split: flower'): image_table(table.assign(row=table.label), photos, group_col='row')

def test_table_splits(table, photos):
    split = ['Train', 'val', 'TEST', 'train']*124
    data = image_table(table.assign(split=split[:494]), photos, split_col='split')
    assert [len(data.splits[k]) for k in data.splits] == [split[:494].count('Train')+split[:494].count('train'), split[:494].count('val'),
                                                          split[:494].count('TEST')]
    assert len(image_table(table.assign(is_valid=[i % 5 == 0 for i in range(494)]), photos, split_col='is_valid').splits['valid']) == 99
    with raises(ValueError, "Column 'split' says 'holdout'"): image_table(table.assign(split='holdout'), photos, split_col='split')
    with raises(ValueError, 'leaves nothing for training'): image_table(table.assign(split='test'), photos, split_col='split')

def test_table_without_the_column(table, photos):
    table.to_csv(photos/'labels.csv', index=False)
    with raises(ValueError, "labels.csv has no column 'lable': did you mean label"): image_table(photos/'labels.csv', label_col='lable')
    with raises(ValueError, 'no column 7'): image_table(table, photos, fn_col=7)
    (photos/'empty.csv').touch()
    with raises(ValueError, 'empty.csv cannot be read as csv'): image_table(photos/'empty.csv')
    with raises(FileNotFoundError, 'none.csv does not exist'): image_table(photos/'none.csv')
    fails_with(cnnfast_here('run', photos/'empty.csv'), 'cannot be read as csv')

def test_table_with_missing_files(table, photos):
    table.loc[3, 'file'] = 'flower/gone.png'
    with pytest.warns(UserWarning, match='names 1 files that are not there.*gone.png'): data = image_table(table, photos)
    assert len(data) == 493
    with raises(FileNotFoundError, 'None of the 494 files', 'path='): image_table(table, photos/'temple')
    with raises(FileNotFoundError, 'nowhere does not exist'): image_table(table, photos/'nowhere')

def test_table_labels(table, photos):
    "Labels stay what they are written as; two for one file are refused; none makes a picture unlabelled"
    names = table.assign(label=table.label.map(dict(flower='007', temple='NA')))
    names.loc[:2, 'label'] = ''
    names.to_csv(photos/'labels.csv', index=False)
    data = image_table(photos/'labels.csv')
    assert data.vocab == ['007', 'NA'] and len(data) == 491 and len(data.unlabelled) == 3
    concat = __import__('pandas').concat
    with raises(ValueError, 'gives two splits to 494 files'):
        image_table(concat([table.assign(s='train'), table.assign(s='valid')]), photos, split_col='s')
    with raises(ValueError, 'gives two groups to 5 files'): image_table(concat([table, table[:5].assign(row='x')]), photos, group_col='row')
    assert len(image_table(concat([table, table.assign(file='flower/../' + table.file)]), photos)) == 494
    assert len(image_table(table.assign(row=table.row.where(table.row != '000')), photos, group_col='row')) == 494 # no source is known
    twice = concat([table, table[:2].assign(label='temple')])
    with raises(ValueError, 'gives two labels to 2 files'): image_table(twice, photos)
    assert len(image_table(__import__('pandas').concat([table, table[:2]]), photos)) == 494

# Pictures

def test_unreadable_pictures_are_named_counted_and_left_out(photos):
    (photos/'temple'/'zz-text.jpg').write_text('no picture')
    whole = (photos/'temple'/'000-000.png').read_bytes()
    (photos/'temple'/'zz-cut.png').write_bytes(whole[:len(whole)//2])
    (photos/'flower'/'zz-empty.png').touch()
    for in_memory in (True, False):
        data = image_folder(photos)
        with pytest.warns(UserWarning, match='3 of 497 pictures of photos cannot be read.*zz-'):
            dls = data.dataloaders(bs=32, in_memory=in_memory, num_workers=0)
        assert len(data) == 494 and {Path(o).name for o in data.left_out} == {'zz-text.jpg', 'zz-cut.png', 'zz-empty.png'}
        assert sum(len(y) for dl in (dls.train.new(drop_last=False, shuffle=False), dls.valid, dls.test) for _,y in dl) == 494

def test_no_readable_picture(tmp_path):
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(5): (tmp_path/c/f'{i}.png').write_text('no')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with raises(ValueError, 'no readable picture'): image_folder(tmp_path).dataloaders()

@pytest.mark.parametrize('mode,ext', [('L', 'png'), ('P', 'gif'), ('1', 'png'), ('CMYK', 'jpg'), ('RGBA', 'png'), ('LA', 'png'),
                                      ('I;16', 'png'), ('I;16', 'tif'), ('F', 'tif')])
def test_odd_modes(mode, ext, tmp_path):
    "Grey, palette, CMYK, transparent, 16-bit and float pictures all become 8-bit RGB, without losing their range"
    if mode == 'I;16': im = Image.fromarray((np.arange(320, dtype=np.uint16).reshape(16, 20)*200))
    elif mode == 'F': im = Image.fromarray(np.linspace(0, 255, 320, dtype=np.float32).reshape(16, 20))
    else: im = noise(mode)
    im.save(tmp_path/f'x.{ext}')
    a = np.asarray(open_picture(tmp_path/f'x.{ext}'))
    assert a.shape == (16, 20, 3) and a.dtype == np.uint8
    assert a.std() > 40 and (a == 255).mean() < 0.6 # neither blank nor clipped
    assert np.asarray(open_picture(tmp_path/f'x.{ext}', 8, n_in=1)).shape == (8, 8)

def test_lying_on_its_side(tmp_path):
    im = Image.new('RGB', (40, 20), 'black'); im.paste('white', (0, 0, 20, 20))
    exif = Image.Exif(); exif[0x112] = 6 # to be turned by a quarter to the right
    im.save(tmp_path/'x.jpg', exif=exif, quality=95)
    a = np.asarray(open_picture(tmp_path/'x.jpg', n_in=1))
    assert a.shape == (40, 20) and a[:15].mean() > 240 and a[25:].mean() < 15

def test_folders_that_are_no_classes(photos, tmp_path):
    "Split folders without train, two for one split, an empty valid"
    root = tmp_path/'split'
    root.mkdir(); photos.rename(root/'val'); (root/'test'/'flower').mkdir(parents=True)
    with raises(ValueError, 'has test and val but no train|has val and test but no train'): image_folder(root)
    (root/'val').rename(root/'train'); (root/'valid').mkdir()
    assert len(image_folder(root).splits['valid']) == 98
    (root/'more').mkdir()
    with pytest.warns(UserWarning, match='beside train are left out: more'): image_folder(root)
    (root/'val').mkdir()
    with raises(ValueError, 'two folders for one split: val'): image_folder(root)

def test_arguments_out_of_range(photos):
    with raises(ValueError, 'no number of pixels'): image_folder(photos, size=-3)
    with raises(ValueError, 'n_in=2'): image_folder(photos, n_in=2)
    data = image_folder(photos)
    with raises(ValueError, 'from 1 to 2, but there are 2 classes'): data.new(targs=data.targs+1)
    with raises(ValueError, 'positions are whole numbers'): data.without([photos/'temple'])
    with raises(ValueError, 'positions are whole numbers'): data.without([494])
    assert len(data.without({3})) == 493 and len(data.without(np.arange(494) < 50)) == 444
    names = data.new(vocab=['bloom', 'shrine'])
    for in_memory in (True, False): assert list(names.dataloaders(in_memory=in_memory, num_workers=0).vocab) == ['bloom', 'shrine']
    assert names.get_y(names.items[0]) == 'bloom' and names.dataloaders(in_memory=False, num_workers=0).one_batch()
    floats = [Picture(np.random.rand(8, 8).astype(np.float32), str(i % 2)) for i in range(40)]
    with pytest.warns(UserWarning, match='float32 is no picture'), raises(ValueError, 'no readable picture'):
        ImageData('f', floats, [i % 2 for i in range(40)], dict(train=range(30), valid=range(30, 40)), ['0', '1'], 8, 1).dataloaders()
    plain = ImageData('plain', list(data.items), data.targs, data.splits, data.vocab, 32)
    assert plain.dataloaders(in_memory=False, num_workers=0).one_batch()

# Archives

def test_archive_is_read(photos, tmp_path):
    with tarfile.open(tmp_path/'photos.tar.gz', 'w:gz') as t: t.add(photos, 'photos')
    with zipfile.ZipFile(tmp_path/'photos.zip', 'w') as z:
        for o in photos.rglob('*.png'): z.write(o, o.relative_to(photos))
    for f in ('photos.tar.gz', 'photos.zip'):
        data = image_folder(tmp_path/f)
        assert data.name == 'photos' and len(data) == 494 and data.vocab == ['flower', 'temple']
    assert unpack_archives(tmp_path/'photos.zip') == unpack_archives(tmp_path/'photos.zip')

def test_archive_where_python_has_no_filters(photos, tmp_path, monkeypatch):
    "As Debian 12's has none"
    monkeypatch.delattr(tarfile, 'data_filter', raising=False)
    with tarfile.open(tmp_path/'older.tar.gz', 'w:gz') as t: t.add(photos, 'photos')
    assert len(image_folder(tmp_path/'older.tar.gz')) == 494

def left_over():
    return [o for o in (cnnfast_home()/'archives').glob('.*') if o.suffix != '.lock'] if (cnnfast_home()/'archives').exists() else []

def test_archive_cut_off(photos, tmp_path):
    with tarfile.open(tmp_path/'cut.tgz', 'w:gz') as t: t.add(photos, 'photos')
    for n in (0.9, 0.5, 0.01):
        whole = (tmp_path/'cut.tgz').read_bytes()
        (tmp_path/'part.tgz').write_bytes(whole[:int(len(whole)*n)])
        with raises(ValueError, 'part.tgz is cut off'): image_folder(tmp_path/'part.tgz')
    with zipfile.ZipFile(tmp_path/'cut.zip', 'w') as z:
        for o in photos.rglob('*.png'): z.write(o, o.relative_to(photos))
    (tmp_path/'part.zip').write_bytes((tmp_path/'cut.zip').read_bytes()[:5000])
    with raises(ValueError, 'part.zip is cut off'): image_folder(tmp_path/'part.zip')
    whole = bytearray((tmp_path/'cut.tgz').read_bytes()); whole[-6] ^= 1 # its checksum
    (tmp_path/'bad.tgz').write_bytes(whole); (tmp_path/'text.tgz').write_text('no archive')
    for f in ('bad.tgz', 'text.tgz'):
        with raises(ValueError, f'{f} is cut off, damaged or no archive'): image_folder(tmp_path/f)
    assert not left_over()

@pytest.mark.parametrize('filters', [True, False])
@pytest.mark.parametrize('name,link', [('../evil.png', None), ('a/../../evil.png', None), ('a/link', '../../../etc')])
def test_archive_with_members_outside(name, link, filters, tmp_path, monkeypatch):
    if not filters: monkeypatch.delattr(tarfile, 'data_filter', raising=False)
    filters = hasattr(tarfile, 'data_filter') # not in every Python
    with tarfile.open(tmp_path/'evil.tar', 'w') as t:
        m = tarfile.TarInfo(name)
        if link: m.type,m.linkname = tarfile.SYMTYPE,link
        t.addfile(m, io.BytesIO(b''))
    with raises(ValueError, 'points outside' if filters or not link else 'neither file nor folder'): image_folder(tmp_path/'evil.tar')
    if not link:
        with zipfile.ZipFile(tmp_path/'evil.zip', 'w') as z: z.writestr(name, b'')
        with raises(ValueError, 'points outside'): image_folder(tmp_path/'evil.zip')
    assert not left_over() and not list(cnnfast_home().rglob('evil.png'))

def test_killed_while_unpacking(photos, tmp_path):
    "What a killed process leaves is not mistaken for the data"
    with tarfile.open(tmp_path/'k.tar', 'w') as t: t.add(photos, 'photos')
    code = f'''
import cnnfast.data.download as f, cnnfast.data.folders as d, os, signal
real,n = f.with_progress,[0]
def killing(it, *args):
    for o in real(it, *args):
        n[0] += 1
        if n[0] == 100: os.kill(os.getpid(), signal.SIGKILL)
        yield o
f.with_progress = killing
d.image_folder({str(tmp_path/"k.tar")!r})
'''
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == -9
    assert len(image_folder(tmp_path/'k.tar')) == 494

# A full disk

@pytest.fixture
def small_disk(tmp_path):
    "A file system of two megabytes"
    d = tmp_path/'disk'
    d.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', d], capture_output=True).returncode:
        pytest.skip('needs the right to mount a tmpfs')
    yield d
    subprocess.run(['umount', d])

def test_full_disk_while_unpacking(photos, small_disk, tmp_path, monkeypatch):
    with tarfile.open(tmp_path/'a.tar', 'w') as t:
        for k in range(4): t.add(photos, f'photos{k}')
    monkeypatch.setenv('CNNFAST_HOME', str(small_disk))
    with raises(OSError, 'No space left', 'CNNFAST_HOME'): image_folder(tmp_path/'a.tar')
    assert not [o for o in small_disk.rglob('*') if o.is_file() and o.suffix != '.lock']

def test_full_disk_while_decoding(photos, small_disk, monkeypatch):
    monkeypatch.setenv('CNNFAST_HOME', str(small_disk))
    data = image_folder(photos, size=64) # 6 MB decoded
    with raises(OSError, 'No space left', 'cache=False'): data.dataloaders()
    real = __import__('shutil').disk_usage
    monkeypatch.setattr('cnnfast.data.store.shutil.disk_usage', lambda p: real('/')) # the disk fills up meanwhile
    with raises(OSError, 'No space left', 'cache=False'): data.dataloaders()
    assert not [o for o in small_disk.rglob('*') if o.is_file() and o.suffix != '.lock']
    assert data.dataloaders(cache=False).one_batch()[0].shape == (64, 3, 64, 64)

def test_full_disk_while_writing_results(small_disk):
    "Room for the first model and its checkpoint, not for the second's"
    subprocess.run(['mount', '-o', 'remount,size=8m', small_disk], check=True)
    res = cnnfast('run', 'digits', '--models', 'cnn,ann', '--epochs', 1, '--seeds', 1, '--out', small_disk/'out')
    fails_with(res, 'No space left', 'ann')
    assert (small_disk/'out'/'cnn'/'seed-0'/'weights.safetensors').exists() and not list(small_disk.rglob('.*.part'))
