"CIFAR-10, CIFAR-100 and Tiny ImageNet in their exact formats on disk: real archives where they are, small generated ones elsewhere."
import io, os, pickle, re, shutil, tarfile, time, warnings
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from conftest import CIFAR, TINY, needs_cifar, needs_tiny
from cnnfast.data.standard_sets import cifar10, cifar100, tiny_imagenet

rng = np.random.default_rng(0)
def raises(exc, *words): return pytest.raises(exc, match='(?s)' + '.*'.join(words))
def pictures(folder, n, size=32, ext='png'):
    folder.mkdir(parents=True)
    for i in range(n): Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder/f'{i}.{ext}')

# CIFAR-10's original pickles

def write_pickles(folder, n=20):
    folder.mkdir()
    for i,f in enumerate([f'data_batch_{k}' for k in range(1, 6)]+['test_batch']):
        d = {b'data':rng.integers(0, 256, (n, 3072), dtype=np.uint8), b'labels':[k % 10 for k in range(n)], b'filenames':[b'x']*n,
             b'batch_label':b''}
        (folder/f).write_bytes(pickle.dumps(d, protocol=2))
    (folder/'batches.meta').write_bytes(pickle.dumps({b'label_names':[f'class {i}'.encode() for i in range(10)], b'num_vis':3072},
                                                     protocol=2))
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

# The real CIFAR-10

@needs_cifar
def test_real_cifar10():
    data = cifar10(CIFAR)
    assert data.vocab == 'airplane automobile bird cat deer dog frog horse ship truck'.split()
    assert (data.counts.values == [4500, 500, 1000]).all() and data.counts.shape == (10, 3)
    pics,_,bad,_ = data.decoded()
    assert pics.shape == (60_000, 3, 32, 32) and not bad
    with tarfile.open(CIFAR) as t: # a picture of the archive is the picture of the array
        m = next(m for m in t if m.isfile() and m.name.endswith('.jpg'))
        want = np.asarray(Image.open(io.BytesIO(t.extractfile(m).read())).convert('RGB'))
    i = next(i for i,o in enumerate(data.items.names) if o.endswith(m.name.split('/', 1)[1]))
    assert (pics[i].transpose(1, 2, 0) == want).all() and data.vocab[data.targs[i]] == Path(m.name).parent.name

# CIFAR-100

FINE = [f'fine_{i:03}' for i in range(100)]
def coarse_of(fine): return f'coarse_{int(fine[-3:]) % 20:02}'

def write_cifar100(folder, n=dict(train=20, test=4)):
    "The original pickles"
    folder.mkdir()
    for k,m in n.items():
        fine = rng.permutation(np.repeat(np.arange(100), m)).tolist()
        d = {b'data':rng.integers(0, 256, (100*m, 3072), dtype=np.uint8), b'fine_labels':fine, b'coarse_labels':[i % 20 for i in fine],
             b'filenames':[b'x.png']*100*m, b'batch_label':b''}
        (folder/k).write_bytes(pickle.dumps(d, protocol=2))
    (folder/'meta').write_bytes(pickle.dumps({b'fine_label_names':[o.encode() for o in FINE],
                                              b'coarse_label_names':[f'coarse_{i:02}'.encode() for i in range(20)]}, protocol=2))
    return folder

@pytest.fixture(scope='module')
def pickles(tmp_path_factory): return write_cifar100(tmp_path_factory.mktemp('c')/'cifar-100-python')

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "fastai's layout"
    root = tmp_path_factory.mktemp('c')/'cifar100'
    for c in FINE:
        for k,n in dict(train=20, test=4).items(): pictures(root/k/coarse_of(c)/c, n)
    return root

@pytest.mark.parametrize('layout', ['pickles', 'folders'])
def test_cifar100(layout, request):
    path = request.getfixturevalue(layout)
    fine,coarse,kaggle = cifar100(path),cifar100(path, coarse=True),cifar100(path, split='kaggle')
    assert fine.vocab == FINE and coarse.vocab == sorted({coarse_of(o) for o in FINE})
    assert (fine.counts.values == [18, 2, 4]).all() and (coarse.counts.values == [90, 10, 20]).all()
    for k in fine.splits: assert (fine.splits[k] == coarse.splits[k]).all()
    assert [coarse_of(fine.vocab[t]) for t in fine.targs] == [coarse.vocab[t] for t in coarse.targs]
    for d in (fine, coarse): assert [d.get_y(o) for o in d.items] == [d.vocab[t] for t in d.targs]
    assert (kaggle.counts.values == [18, 2]).all() and list(kaggle.counts) == ['train', 'valid'] and len(kaggle.unlabelled) == 400
    assert 'unlabelled' in repr(kaggle)

def test_cifar100_kaggle_is_the_official_test(pickles):
    "45,000 / 5,000 / 10,000 in proportion; the test labels are nowhere in the data set, and its pictures can be predicted"
    kaggle,raw = cifar100(pickles, split='kaggle'),pickle.loads((pickles/'test').read_bytes())
    assert all((o.array.transpose(2, 0, 1).ravel() == p).all() for o,p in zip(kaggle.unlabelled, raw[b'data']))
    assert all(o.label is None for o in kaggle.unlabelled)
    dls = kaggle.dataloaders(bs=32)
    assert len(dls.loaders) == 2 and len(kaggle.items) == 2000
    xb, = dls.test_dl(kaggle.unlabelled[:5]).one_batch()
    assert xb.shape == (5, 3, 32, 32)
    with raises(ValueError, 'kaggle', 'valid_pct'): cifar100(pickles, split='kaggle', valid_pct=0.2)
    assert (cifar100(pickles, split='kaggle', seed=1).splits['valid'] != kaggle.splits['valid']).any()

def test_cifar100_full_counts(tmp_path):
    "The numbers of the real one: 450, 50 and 100 of each class"
    kaggle = cifar100(write_cifar100(tmp_path/'c', dict(train=500, test=100)), split='kaggle')
    assert (kaggle.counts.values == [450, 50]).all()
    assert [len(o) for o in kaggle.splits.values()] == [45_000, 5_000]
    assert len(kaggle.unlabelled) == 10_000

def test_not_cifar100(tmp_path, pickles):
    with raises(ValueError, 'is not CIFAR-100'): cifar100(tmp_path)
    shutil.copytree(pickles, tmp_path/'c'); (tmp_path/'c'/'test').unlink()
    with raises(FileNotFoundError, 'test is missing'): cifar100(tmp_path/'c')

# Tiny ImageNet

WORDS = {'n01443537':'goldfish, Carassius auratus', 'n02012849':'crane', 'n03126707':'crane', 'n04074963':'remote control, remote',
         'n07749582':'lemon'}

@pytest.fixture
def tiny(tmp_path):
    "Five classes in the original's layout, two of them of one name"
    root = tmp_path/'tiny-imagenet-200'
    for o in WORDS:
        pictures(root/'train'/o/'images', 20, 64, 'JPEG')
        (root/'train'/o/f'{o}_boxes.txt').write_text('0.JPEG\t0\t0\t1\t1\n')
    pictures(root/'val'/'images', 10, 64, 'JPEG'); pictures(root/'test'/'images', 3, 64, 'JPEG')
    (root/'wnids.txt').write_text('\n'.join(reversed(WORDS)))
    (root/'words.txt').write_text('n00001740\tentity\n' + '\n'.join('\t'.join(o) for o in WORDS.items()))
    (root/'val'/'val_annotations.txt').write_text(''.join(f'{i}.JPEG\t{list(WORDS)[i % 5]}\t0\t0\t63\t63\n' for i in range(10)))
    return root

def test_tiny_imagenet(tiny):
    data = tiny_imagenet(tiny)
    assert data.vocab == ['goldfish', 'crane (n02012849)', 'crane (n03126707)', 'remote control', 'lemon']
    assert (data.counts.values == [18, 2, 2]).all() and len(data.unlabelled) == 3
    assert all('val' in data.items[int(i)].parts for i in data.splits['test'])
    assert all('train' in data.items[int(i)].parts for k in ('train', 'valid') for i in data.splits[k])
    assert [data.get_y(o) for o in data.items] == [data.vocab[t] for t in data.targs]
    assert data.get_y(tiny/'val'/'images'/'7.JPEG') == 'crane (n03126707)'
    assert tiny_imagenet(tiny, classes=2).vocab == data.vocab[:2]
    zipped = tiny_imagenet(shutil.make_archive(tiny.parent/'tiny-imagenet-200', 'zip', tiny.parent, tiny.name)) # as it is downloaded
    assert zipped.vocab == data.vocab and [o.name for o in zipped.items] == [o.name for o in data.items]
    some = tiny_imagenet(tiny, classes=['lemon', 'n01443537'])
    assert some.vocab == ['goldfish', 'lemon']
    assert (some.counts.values == [18, 2, 2]).all()
    assert {some.get_y(o) for o in some.items} == {'goldfish', 'lemon'}
    with raises(ValueError, "no class 'cranes'"): tiny_imagenet(tiny, classes=['cranes', 'lemon'])
    with raises(ValueError, 'give 2 to 5'): tiny_imagenet(tiny, classes=6)

def test_tiny_imagenet_damaged(tiny):
    annotations = tiny/'val'/'val_annotations.txt'
    good = annotations.read_text()
    annotations.write_text(good + 'val_99.JPEG\tn07749582\t0\t0\t1\t1\n')
    with raises(FileNotFoundError, 'names 1 files that are not in val/: val_99.JPEG'): tiny_imagenet(tiny)
    annotations.write_text(good + '3.JPEG\tn99999999\t0\t0\t1\t1\n')
    with raises(ValueError, 'neither in wnids.txt nor in train/: n99999999'): tiny_imagenet(tiny)
    annotations.write_text(good)
    (tiny/'wnids.txt').write_text('\n'.join(list(WORDS)[:3]))
    with pytest.warns(UserWarning, match='2 classes that are not in wnids.txt .n04074963, n07749582.'):
        assert len(tiny_imagenet(tiny).vocab) == 5
    (tiny/'wnids.txt').write_text('\n'.join([*WORDS, 'n88888888']))
    with raises(ValueError, 'wnids.txt lists n88888888, without a folder in train/'): tiny_imagenet(tiny)
    (tiny/'words.txt').unlink()
    with raises(FileNotFoundError, 'not Tiny ImageNet, or not all of it: words.txt is missing'): tiny_imagenet(tiny)

@needs_tiny
@pytest.mark.filterwarnings('ignore:.*not in wnids.txt')
def test_real_tiny_imagenet():
    "Both parts: 200 classes, names, counts, a known picture; decoded once; the next start takes a quarter of that, or less"
    data = tiny_imagenet(TINY)
    assert len(data.vocab) == 200 and data.vocab[:3] == ['goldfish', 'European fire salamander', 'bullfrog'] and data.vocab[-1] == 'acorn'
    assert (data.counts.values == [180, 20, 50]).all() and len(data.unlabelled) == 200
    start = time.perf_counter()
    pics,_,bad,_ = data.decoded()
    decoding = time.perf_counter()-start
    assert pics.shape == (50_000, 3, 64, 64) and not bad
    i = [o.name for o in data.items].index('val_0.JPEG')
    assert data.vocab[data.targs[i]] == 'go-kart'
    assert (pics[i].transpose(1, 2, 0) == np.asarray(Image.open(data.items[i]).convert('RGB'))).all()
    starts = []
    for _ in range(3): # the quickest counts: the machine may be busy writing what was just decoded
        start = time.perf_counter()
        tiny_imagenet(TINY).dataloaders(bs=512).one_batch()
        starts.append(time.perf_counter()-start)
    assert min(starts) < decoding/4
    some = tiny_imagenet(TINY, classes=20)
    assert len(some) == 5000 and some.vocab == data.vocab[:20]
