"What a fastai user does with `dls` works with pictures in memory, and both ways of loading agree."
import os, subprocess, sys, warnings
from pathlib import Path
import numpy as np
import pytest
import torch
from fastai.vision.all import (ClassificationInterpretation, CrossEntropyLossFlat, Image, TfmdDL, default_device, load_learner, plt, tensor)
from conftest import CIFAR, needs_cifar
from cnnfast.data.download import unpack_archives
from cnnfast.data.pictures import Picture, RESIZE, open_picture
from cnnfast.data.dataset import digits
from cnnfast.data.folders import image_folder
from cnnfast.data.standard_sets import cifar10
from cnnfast.data.augmentation import Cutout, FlipLR, PadCrop
from cnnfast.data.loading import MemoryDL
from cnnfast.training.learner import scratch_learner

def same(a, b, eps=1e-5): assert (a.float()-b.float()).abs().max() < eps

@pytest.fixture(params=['digits', 'photos'])
def data(request): return digits() if request.param == 'digits' else image_folder(request.getfixturevalue('photos'))

@pytest.fixture
def learn(data):
    learn = scratch_learner(data.dataloaders(bs=50), 'cnn', seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    return learn

def test_same_data_both_ways(data):
    "Pictures, labels, and the order of both and of the classes"
    a,b = data.dataloaders(bs=50, augment=False),data.dataloaders(bs=50, augment=False, in_memory=False, num_workers=0)
    assert isinstance(a.train, MemoryDL) and not isinstance(b.train, MemoryDL)
    assert list(a.vocab) == list(b.vocab) == data.vocab
    for x,y in zip(a, b):
        x,y = [o.new(shuffle=False, drop_last=False) for o in (x, y)]
        assert len(x) == len(y)
        for (xb,yb),(xb2,yb2) in zip(x, y):
            same(xb, xb2)
            assert (yb == yb2).all() and type(xb) is type(xb2) and type(yb) is type(yb2)

@needs_cifar
def test_same_data_both_ways_cifar(cifar_2000): test_same_data_both_ways(cifar10(cifar_2000))

def test_plain_datablock(data):
    dls = data.block.dataloaders(data, bs=16, num_workers=0)
    assert type(dls.train) is TfmdDL and [len(o.dataset) for o in dls] == [len(o) for o in data.splits.values()]

def test_show_and_predict(learn, data):
    dls = learn.dls
    dls.show_batch(); dls.valid.show_batch(max_n=4); dls.train.show_batch(unique=True); learn.show_results()
    assert len(dls.one_batch()[0]) == 50
    name,i,probs = learn.predict(data.items[0])
    assert name in data.vocab and abs(probs.sum()-1) < 1e-5 and dls.vocab[i] == name
    plt.close('all')

def test_new_files(learn, data):
    "`test_dl` on items gives the predictions of the same pictures in memory, with labels too"
    probs,targs = learn.get_preds(ds_idx=2)
    items = [data.items[int(i)] for i in data.splits['test']]
    same(learn.get_preds(dl=learn.dls.test_dl(items))[0], probs)
    assert (learn.get_preds(dl=learn.dls.test_dl(items, with_labels=True))[1] == targs).all()
    arrays = [np.asarray(open_picture(o.array if isinstance(o, Picture) else o, n_in=data.n_in)) for o in items[:7]]
    same(learn.get_preds(dl=learn.dls.test_dl(arrays))[0], probs[:7])
    same(learn.get_preds(dl=learn.dls.test_dl([str(o) for o in items[:7]] if not isinstance(items[0], Picture) else arrays))[0], probs[:7])

def test_get_preds_order(learn):
    "Predictions come in the order of the items, on train as well"
    _,targs = learn.get_preds(ds_idx=0)
    assert (targs == tensor([o[1] for o in learn.dls.train_ds])).all()

def test_interpretation(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_top_losses(4); interp.plot_confusion_matrix()
    losses,idx,items = interp.top_losses(3, items=True)
    assert interp.confusion_matrix().sum() == len(learn.dls.valid_ds) and len(items) == 3
    plt.close('all')

def test_tta(learn):
    probs,targs = learn.tta(ds_idx=2, n=2)
    assert probs.shape == (len(learn.dls.test.dataset), learn.dls.c) and torch.isfinite(probs).all()

def test_augmentation_in_training_only(data):
    dls = data.dataloaders(bs=50, augment=[PadCrop(2), FlipLR(), Cutout(3)])
    a,b = [dls.valid.one_batch()[0] for _ in range(2)]
    same(a, b)
    fixed = dls.train.new(shuffle=False)
    a,b = [fixed.one_batch()[0] for _ in range(2)]
    assert (a != b).any()

def test_weighted_loss_and_odd_batches(data):
    n = len(data.splits['train'])
    dls = data.dataloaders(bs=33)
    assert n % 33 and [len(y) for _,y in dls.train] == [33]*(n//33)
    assert sum(len(y) for _,y in dls.valid) == len(data.splits['valid'])
    learn = scratch_learner(dls, 'cnn', loss_func=CrossEntropyLossFlat(weight=torch.ones(dls.c)))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    for bs in (n+1, 0, -3):
        with pytest.raises(ValueError, match=f'bs={bs} .*{n:,} training pictures'): data.dataloaders(bs=bs)
    assert data.dataloaders(bs=n).train.bs == n

def test_devices(data):
    dls = data.dataloaders(bs=16)
    assert dls.cuda().one_batch()[0].device.type == default_device().type
    assert dls.cpu().one_batch()[0].device.type == 'cpu'
    assert data.dataloaders(bs=16, device='cpu').train.device.type == 'cpu'

def test_export_and_load(learn, data, tmp_path):
    "An exported learner predicts new files, and does not carry the pictures along"
    learn.path = tmp_path
    probs,_ = learn.get_preds(ds_idx=2)
    learn.export('m.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'m.pkl')
    items = [data.items[int(i)] for i in data.splits['test'][:5]]
    same(again.get_preds(dl=again.dls.test_dl(items))[0], probs[:5])
    size = sum(p.numel()*4 for p in learn.model.parameters())
    assert (tmp_path/'m.pkl').stat().st_size < size*4 + 2**20

def test_n_epochs_shuffle(data):
    "Every epoch sees every picture, in another order"
    dl = data.dataloaders(bs=50).train.new(drop_last=False)
    one,two = [torch.cat([y for _,y in dl]) for _ in range(2)]
    assert (one.bincount() == two.bincount()).all() and (one != two).any()

def test_too_many_for_memory(photos, capsys):
    data = image_folder(photos)
    dls = data.dataloaders(bs=16, budget=0.001, num_workers=0)
    assert dls.train.store.mapped and 'decoded when they are first needed' in capsys.readouterr().out
    assert len(dls.one_batch()[0]) == 16
    assert not isinstance(data.dataloaders(bs=16, in_memory=False, num_workers=0).train, MemoryDL)
    assert isinstance(data.dataloaders(bs=16).train, MemoryDL) and not capsys.readouterr().out

def test_cache_knows_changes(photos):
    "A changed, an added and a removed file are all noticed; an unchanged folder is not decoded again"
    data = image_folder(photos); data.decoded()
    written = data._cache_dir().stat().st_mtime_ns
    again = image_folder(photos); again.decoded()
    assert again._cache_dir().stat().st_mtime_ns == written
    f = sorted((photos/'temple').iterdir())[0]
    Image.new('RGB', (32, 32), 'red').save(f)
    data = image_folder(photos)
    i = [str(o) for o in data.items].index(str(f))
    assert (data.decoded()[0][i,:,0,0] == [255, 0, 0]).all()
    f.unlink()
    assert len(image_folder(photos).decoded()[0]) == 493

def test_broken_cache_is_made_again(photos):
    data = image_folder(photos)
    want = data.decoded()[0].copy()
    for name in ('pictures.npy', 'sums.npy', 'meta.json'):
        f = data._cache_dir()/name
        f.write_bytes(f.read_bytes()[:10])
        assert (image_folder(photos).decoded()[0] == want).all()

def test_killed_while_decoding(photos):
    code = f'''
import cnnfast.data.store as s, cnnfast.data.loading, cnnfast.data.folders as d, os, signal
s.decode_pictures = lambda items, opener, put, **kw: (put(b"x"*1000), os.kill(os.getpid(), signal.SIGKILL))
d.image_folder({str(photos)!r}).dataloaders()
'''
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == -9
    assert (image_folder(photos).decoded()[0] == image_folder(photos).decoded(cache=False)[0]).all()

@pytest.mark.parametrize('resize', RESIZE)
def test_resizing(photos, resize):
    data = image_folder(photos, size=20, resize=resize)
    assert data.dataloaders(bs=8).one_batch()[0].shape[-2:] == (20, 20)
    with pytest.raises(ValueError, match='crop, pad, squish'): image_folder(photos, resize='stretch')

@needs_cifar
def test_second_start_and_memory(tmp_path):
    "All of CIFAR-10: decoding needs no more memory than the pictures and 300 MB; the next start takes a fifth of the time, or less"
    code = f'''
import psutil, threading, time
import cnnfast.data.loading; from cnnfast.data.standard_sets import cifar10
me,peak,done = psutil.Process(),[0],threading.Event()
def used():
    total = me.memory_info().rss
    for c in me.children():
        try: total += c.memory_full_info().uss # what a worker holds beyond the pages that it shares with this process
        except psutil.Error: pass
    return total
data = cifar10({str(CIFAR)!r})
before = used()
def watch():
    while not done.wait(0.05): peak[0] = max(peak[0], used())
t = threading.Thread(target=watch); t.start()
start = time.perf_counter()
pics = data.decoded()[0]
decoding = time.perf_counter()-start
done.set(); t.join()
starts = []
for _ in range(3): # the quickest counts: the machine may be busy writing what was just decoded
    start = time.perf_counter()
    cifar10({str(CIFAR)!r}).dataloaders(bs=512).one_batch()
    starts.append(time.perf_counter()-start)
print((peak[0]-before)/2**20, pics.nbytes/2**20, min(starts), decoding)
'''
    (tmp_path/'archives').symlink_to(unpack_archives(CIFAR).parent) # unpacked already; decoded not
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
                         env={**os.environ, 'CNNFAST_HOME':str(tmp_path)})
    grown,pictures,start,decoding = map(float, out.stdout.split())
    assert grown < pictures + 300
    assert start < decoding/5
