"More pictures than the memory holds: the same pictures as in memory, whatever happens to the disk, the files, or the process."
import errno, json, os, subprocess, sys, warnings
import numpy as np
import pytest
import torch
from PIL import Image
from cnnfast.core import devices, rows as rows_module
from cnnfast.core.devices import device_name
from cnnfast.core.disk import cnnfast_home
from cnnfast.data import beyond_memory as module
from cnnfast.data.folders import image_folder
from cnnfast.data.loading import split_targets
from cnnfast.data.pictures import decode_jpegs
from conftest import make_photographs, needs_gpu

SMALL = 1e-4 # GB

@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv('CNNFAST_HOME', str(tmp_path/'home'))
    monkeypatch.setattr(module, '_WINDOW', 12*3*96*96); monkeypatch.setattr(module, '_BLOCK', 4*3*96*96) # several of each
    return make_photographs(tmp_path/'photographs')

def loaders(root, seed=0, **kwargs):
    dls = image_folder(root, size=96).dataloaders(**{**dict(bs=4, augment=False, budget=SMALL), **kwargs})
    dls.train.rng.seed(seed)
    return dls

def seen(dl): return sorted((int(y), *x.flatten()[::997].tolist()) for xb,yb in dl for x,y in zip(xb, yb))
def spoil(path): path.write_bytes(path.read_bytes()[:2000])

def test_the_same_as_in_memory(root):
    far,near = loaders(root),loaders(root, budget=10)
    assert far.train.store.mapped and not near.train.store.mapped
    for (x,y),(u,v) in zip(far.valid, near.valid): assert torch.equal(x, u) and torch.equal(y, v)
    train = [o.train.new(drop_last=False) for o in (far, near)]
    one,two = map(seen, train)
    assert one == two and len(one) == len(far.train_ds)

def test_from_a_cache(root, capsys):
    "What a day with more memory has left is read as it is"
    near = loaders(root, budget=10)
    far = loaders(root)
    assert 'they are read from the cache' in capsys.readouterr().out and not [*(cnnfast_home()/'pictures').glob('*-mixed')]
    for o in ('train', 'valid'): assert seen(getattr(far, o).new(drop_last=False)) == seen(getattr(near, o).new(drop_last=False))

@pytest.mark.parametrize('cache', [True, False])
def test_small_pictures(photos, cache):
    data = image_folder(photos)
    far,near = [data.dataloaders(bs=16, augment=False, budget=o, cache=cache) for o in (SMALL, 10)]
    assert far.train.store.mapped and far.train.store.file.keeps is cache
    for _ in range(2):
        for (x,y),(u,v) in zip(far.valid, near.valid): assert torch.equal(x, u) and torch.equal(y, v)

def test_order_belongs_to_the_seed(root):
    def order(dls): return [y.tolist() + x[:,0,0,0].tolist() for x,y in dls.train]
    first = order(loaders(root))
    assert order(loaders(root)) == first and order(loaders(root, seed=1)) != first # filled by now
    dls = loaders(root)
    assert order(dls) != order(dls)

def test_unreadable_pictures(root):
    data = image_folder(root, size=96)
    bad = {k:data.items[int(data.splits[k][1])] for k in ('train', 'valid')}
    for o in bad.values(): spoil(o)
    def pass_over(): # by another process, as it were
        data = image_folder(root, size=96)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            dls = data.dataloaders(bs=4, augment=False, budget=SMALL)
            n = len(dls.valid_ds)
            dls.train.rng.seed(0)
            batches = [y.tolist() for _,y in dls.train]
            labels = split_targets(dls.valid)
            assert sum(len(y) for _,y in dls.valid) == len(labels) == len(dls.valid_ds) == n-1
        text = ' '.join(str(o.message) for o in said)
        assert all(text.count(str(o)) == 1 for o in bad.values()) and set(data.left_out) == set(map(str, bad.values()))
        return batches
    assert pass_over() == pass_over() # though the second knows before

def test_nothing_readable_is_left(root):
    data = image_folder(root, size=96)
    for i in data.splits['valid']: spoil(data.items[int(i)])
    dls = loaders(root)
    with pytest.warns(UserWarning, match='cannot be read'), pytest.raises(ValueError, match='no readable picture is left in valid'):
        list(dls.valid)

def test_disk_gets_full(root, monkeypatch):
    plain,left = rows_module.RowFile.write,[2]
    def full(self, *args):
        left[0] -= 1
        if left[0] < 0: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(self, *args)
    monkeypatch.setattr(rows_module.RowFile, 'write', full)
    with pytest.warns(UserWarning, match='No space left in .*CNNFAST_HOME.*decoded whenever it is needed') as said:
        dls = loaders(root)
        got = [seen(dls.train.new(drop_last=False)) for _ in range(2)]
    assert sum(issubclass(o.category, UserWarning) for o in said) == 1 # others, of files that were left open, come when they like
    monkeypatch.undo()
    want = seen(loaders(root, budget=10).train.new(drop_last=False))
    assert got == [want]*2

def test_no_room_from_the_start(root, monkeypatch, capsys):
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda o: os.times() and type('', (), dict(free=10)))
    dls = loaders(root)
    assert 'not kept on disk' in capsys.readouterr().out and len(seen(dls.valid)) == len(dls.valid_ds)
    assert not list((cnnfast_home()/'pictures').iterdir())

def test_files_are_packed_where_the_decoded_do_not_fit(root, monkeypatch, capsys):
    "The same pictures, from then on without the files"
    data = image_folder(root, size=96)
    bad = data.items[int(data.splits['train'][1])]
    spoil(bad)
    monkeypatch.setattr(module.shutil, 'disk_usage', lambda o: type('', (), dict(free=len(data.items)*30_000))) # decoded, each takes 48 kB
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        far,near = loaders(root),loaders(root, budget=10, cache=False)
        assert far.train.store.packed and 'packed into' in capsys.readouterr().out
        want = [seen(near.valid), seen(near.test)]
        assert [seen(far.valid), seen(far.test)] == want
        seen(far.train.new(drop_last=False))
    assert far.train.store.left_out.keys() == {str(bad)} and 'BytesIO' not in str(far.train.store.left_out)
    again = loaders(root)
    for o in root.rglob('*.jpg'): o.unlink()
    assert [seen(again.valid), seen(again.test)] == want and again.train.store.bad
    rows = again.train.store.file.folder/'rows'
    rows.write_bytes(bytes(rows.stat().st_size))
    with pytest.raises(OSError, match='packed is damaged: remove it'): seen(again.valid)

@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=needs_gpu)])
def test_decoded_by_a_device(root, device, capsys):
    "What `device` decodes differs little from what PIL does, and what is no plain JPEG not at all"
    data = image_folder(root, size=96)
    odd,bad = [data.items[int(i)] for i in data.splits['valid'][:2]]
    with Image.open(odd) as im: im.convert('CMYK').save(odd)
    spoil(bad)
    calls = []
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as m:
        warnings.simplefilter('ignore')
        m.setattr(module, 'decode_jpegs', lambda files, *args: calls.append(len(files)) or decode_jpegs(files, *args))
        near,far = loaders(root, budget=10, cache=False),loaders(root, decode_device=device)
        assert far.train.store.packed and f'decoded whenever they are needed by {device_name(device)}' in capsys.readouterr().out
        here,there,again = [torch.cat([x for x,_ in o.valid]).float() for o in (near, far, far)]
    assert sum(calls) == 2*(len(here)-1) and torch.equal(there, again)
    apart = (here-there).abs().flatten(1).mean(1)
    assert (apart == 0).sum() == 1 and 0 < apart.max() < 0.03

def test_no_device_that_decodes(root, monkeypatch):
    with pytest.raises(ValueError, match='decode_device=cuda:77: this machine has no such device'): loaders(root, decode_device='cuda:77')
    monkeypatch.setattr(devices, 'check_device', lambda device, what: device) # as on a Mac
    with pytest.raises(ValueError, match='decode_device=mps cannot decode JPEGs: leave it out'): devices.check_decodes('mps')

def test_another_version(root, capsys):
    folder = loaders(root).train.store.file.folder
    meta = json.loads((folder/'meta.json').read_text())
    (folder/'meta.json').write_text(json.dumps(dict(meta, format=99)))
    capsys.readouterr()
    seen(loaders(root).train)
    assert f'{folder} is of another version of cnnfast' in capsys.readouterr().out
    data = image_folder(root, size=96)
    want,cache = data.decoded()[0].copy(),data._cache_dir()
    meta = json.loads((cache/'meta.json').read_text())
    (cache/'meta.json').write_text(json.dumps(dict(meta, format=99)))
    assert (data.decoded()[0] == want).all() and f'{cache} is of another version' in capsys.readouterr().out

WORKER = '''
import os, signal, sys, warnings
from cnnfast import *
import cnnfast.data.beyond_memory as module
import zlib
warnings.simplefilter('ignore'); torch.set_num_threads(1)
root,home = map(Path, sys.argv[1:])
module._WINDOW,module._BLOCK = 12*3*96*96,4*3*96*96
def train(name, kill=None):
    if pid := os.fork(): return os.waitpid(pid, 0)[1]
    os.environ['CNNFAST_HOME'] = str(home/name)
    class Kill(Callback):
        order = 2000
        def after_batch(self):
            if self.training and self.learn.train_iter == kill: os.kill(os.getpid(), signal.SIGKILL)
    dls = image_folder(root, size=96).dataloaders(bs=4, budget=1e-4)
    learn = scratch_learner(dls, 'cnn', seed=1, cbs=[Checkpoint(home/f'{name}.safetensors', resume=True), Kill()])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1); learn.fit_one_cycle(2)
    weights = zlib.crc32(b''.join(o.numpy().tobytes() for o in learn.model.state_dict().values()))
    print(name, weights, learn.history().round(9).values.tolist(), flush=True)
    os._exit(0)
home.mkdir()
assert train('whole') == 0
assert train('killed', 3) and train('killed', 12)
assert train('killed') == 0
'''

def test_killed_while_the_store_fills(root, tmp_path):
    "With pictures that cannot be read, in train and in valid, which are found on the way"
    data = image_folder(root, size=96)
    for k in ('train', 'valid'): spoil(data.items[int(data.splits[k][2])])
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', WORKER, str(root), str(tmp_path/'homes')], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    whole,killed = [o.split(' ', 1) for o in res.stdout.splitlines() if o.startswith(('whole', 'killed'))]
    assert whole[1] == killed[1]
