"Folders, files and archives as they come: each mistake gets one sentence, and nothing half-written stays."
import errno, io, os, pickle, subprocess, sys, tarfile, warnings, zipfile
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from conftest import CIFAR, cnnfast, fails_with, needs_cifar
from cnnfast.datasets import *
from cnnfast.datasets import cnnfast_home
from cnnfast.loading import *

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

# Pictures

def test_unreadable_pictures_are_named_counted_and_left_out(photos):
    (photos/'temple'/'zz-text.jpg').write_text('no picture')
    whole = (photos/'temple'/'000-000.png').read_bytes()
    (photos/'temple'/'zz-cut.png').write_bytes(whole[:len(whole)//2])
    (photos/'flower'/'zz-empty.png').touch()
    for in_memory in (True, False):
        data = image_folder(photos)
        with pytest.warns(UserWarning, match='3 of 497 pictures of photos cannot be read.*zz-'): dls = data.dataloaders(bs=32, in_memory=in_memory, num_workers=0)
        assert len(data) == 494 and {Path(o).name for o in data.left_out} == {'zz-text.jpg', 'zz-cut.png', 'zz-empty.png'}
        assert sum(len(y) for dl in (dls.train.new(drop_last=False, shuffle=False), dls.valid, dls.test) for _,y in dl) == 494

def test_no_readable_picture(tmp_path):
    for c in 'ab':
        (tmp_path/c).mkdir()
        for i in range(5): (tmp_path/c/f'{i}.png').write_text('no')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with raises(ValueError, 'no readable picture'): image_folder(tmp_path).dataloaders()

@pytest.mark.parametrize('mode,ext', [('L', 'png'), ('P', 'gif'), ('1', 'png'), ('CMYK', 'jpg'), ('RGBA', 'png'), ('LA', 'png'), ('I;16', 'png'), ('I;16', 'tif'), ('F', 'tif')])
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

# Archives

def test_archive_is_read(photos, tmp_path):
    with tarfile.open(tmp_path/'photos.tar.gz', 'w:gz') as t: t.add(photos, 'photos')
    with zipfile.ZipFile(tmp_path/'photos.zip', 'w') as z:
        for o in photos.rglob('*.png'): z.write(o, o.relative_to(photos))
    for f in ('photos.tar.gz', 'photos.zip'):
        data = image_folder(tmp_path/f)
        assert data.name == 'photos' and len(data) == 494 and data.vocab == ['flower', 'temple']
    assert unpack(tmp_path/'photos.zip') == unpack(tmp_path/'photos.zip')

def left_over(): return [o for o in (cnnfast_home()/'archives').glob('.*')] if (cnnfast_home()/'archives').exists() else []

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
    assert not left_over()

@pytest.mark.parametrize('name,link', [('../evil.png', None), ('a/../../evil.png', None), ('a/link', '../../../etc')])
def test_archive_with_members_outside(name, link, tmp_path):
    with tarfile.open(tmp_path/'evil.tar', 'w') as t:
        m = tarfile.TarInfo(name)
        if link: m.type,m.linkname = tarfile.SYMTYPE,link
        t.addfile(m, io.BytesIO(b''))
    with raises(ValueError, 'points outside'): image_folder(tmp_path/'evil.tar')
    if not link:
        with zipfile.ZipFile(tmp_path/'evil.zip', 'w') as z: z.writestr(name, b'')
        with raises(ValueError, 'points outside'): image_folder(tmp_path/'evil.zip')
    assert not left_over() and not list(cnnfast_home().rglob('evil.png'))

def test_killed_while_unpacking(photos, tmp_path):
    "What a killed process leaves is not mistaken for the data"
    with tarfile.open(tmp_path/'k.tar', 'w') as t: t.add(photos, 'photos')
    code = f'''
import cnnfast.datasets as d, os, signal
real,n = d.with_progress,[0]
def killing(it, *args):
    for o in real(it, *args):
        n[0] += 1
        if n[0] == 100: os.kill(os.getpid(), signal.SIGKILL)
        yield o
d.with_progress = killing
d.image_folder({str(tmp_path/"k.tar")!r})
'''
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == -9
    assert len(image_folder(tmp_path/'k.tar')) == 494

# CIFAR-10's original pickles

def write_pickles(folder, n=20):
    folder.mkdir()
    for i,f in enumerate([f'data_batch_{k}' for k in range(1, 6)]+['test_batch']):
        d = {b'data':rng.integers(0, 256, (n, 3072), dtype=np.uint8), b'labels':[k % 10 for k in range(n)], b'filenames':[b'x']*n, b'batch_label':b''}
        (folder/f).write_bytes(pickle.dumps(d, protocol=2))
    (folder/'batches.meta').write_bytes(pickle.dumps({b'label_names':[f'class {i}'.encode() for i in range(10)], b'num_vis':3072}, protocol=2))
    return folder

def test_original_pickles(tmp_path):
    folder = write_pickles(tmp_path/'cifar-10-batches-py')
    with tarfile.open(tmp_path/'cifar-10-python.tar.gz', 'w:gz') as t: t.add(folder, folder.name)
    for path in (folder, tmp_path, tmp_path/'cifar-10-python.tar.gz'):
        if path == tmp_path: (tmp_path/'cifar-10-python.tar.gz').rename(tmp_path.parent/'moved.tgz')
        data = cifar10(path)
        if path == tmp_path: (tmp_path.parent/'moved.tgz').rename(tmp_path/'cifar-10-python.tar.gz')
        assert [len(o) for o in data.splits.values()] == [90, 10, 20] and data.vocab[3] == 'class 3'
    raw = pickle.loads((folder/'test_batch').read_bytes())[b'data'][7].reshape(3, 32, 32)
    dls = data.dataloaders(bs=16, augment=False)
    assert (dls.test.store.pics[107] == __import__('torch').from_numpy(raw)).all()
    assert data.dataloaders(bs=16, in_memory=False, num_workers=0).test.dataset[7][1] == 7

def test_pickles_run_no_code(tmp_path):
    folder = write_pickles(tmp_path/'p')
    class Evil:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'pwned'),)
    (folder/'test_batch').write_bytes(pickle.dumps({b'data':Evil()}))
    with raises(ValueError, 'not read'): cifar10(folder)
    assert not (tmp_path/'pwned').exists()
    (folder/'test_batch').write_bytes((folder/'data_batch_1').read_bytes()[:500])
    with raises(ValueError, 'test_batch is cut off'): cifar10(folder)
    (folder/'test_batch').unlink()
    with raises(FileNotFoundError, 'test_batch'): cifar10(folder)

def test_not_cifar(photos):
    with raises(ValueError, 'is not CIFAR-10'): cifar10(photos)

# A full disk

@pytest.fixture
def small_disk(tmp_path):
    "A file system of two megabytes"
    d = tmp_path/'disk'
    d.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', d], capture_output=True).returncode: pytest.skip('needs the right to mount a tmpfs')
    yield d
    subprocess.run(['umount', d])

def test_full_disk_while_unpacking(photos, small_disk, tmp_path, monkeypatch):
    with tarfile.open(tmp_path/'a.tar', 'w') as t:
        for k in range(4): t.add(photos, f'photos{k}')
    monkeypatch.setenv('CNNFAST_HOME', str(small_disk))
    with raises(OSError, 'No space left', 'CNNFAST_HOME'): image_folder(tmp_path/'a.tar')
    assert not [o for o in small_disk.rglob('*') if o.is_file()]

def test_full_disk_while_decoding(photos, small_disk, monkeypatch):
    monkeypatch.setenv('CNNFAST_HOME', str(small_disk))
    data = image_folder(photos, size=64) # 6 MB decoded
    with raises(OSError, 'No space left', 'cache=False'): data.dataloaders()
    real = __import__('shutil').disk_usage
    monkeypatch.setattr('cnnfast.loading.shutil.disk_usage', lambda p: real('/')) # the disk fills up meanwhile
    with raises(OSError, 'No space left', 'cache=False'): data.dataloaders()
    assert not [o for o in small_disk.rglob('*') if o.is_file()]
    assert data.dataloaders(cache=False).one_batch()[0].shape == (64, 3, 64, 64)

def test_full_disk_while_writing_results(small_disk):
    res = cnnfast('run', '--models', 'cnn,ann', '--epochs', 1, '--seeds', 1, '--out', small_disk/'out')
    fails_with(res, 'No space left', 'weights.safetensors')
    assert (small_disk/'out'/'cnn'/'seed-0'/'weights.safetensors').exists() and not list(small_disk.rglob('.*.part'))
