"A training that is killed, by a real SIGKILL, and started again ends as one that was not."
import errno, json, math, os, pickle, subprocess, sys
import pytest
from conftest import cnnfast_here, fails_with
from pathlib import Path
from fastai.vision.all import Callback, ProgressCallback
from cnnfast.data.dataset import digits
from cnnfast.training import states
from cnnfast.training.states import read_state
from cnnfast.training.checkpoints import Checkpoint
from cnnfast.training.learner import scratch_learner
from cnnfast.training.transfer import transfer_learner
from cnnfast.study.recipe import Recipe
from cnnfast.study.pipeline import compare

# One process imports everything and forks a child for each training, which is what would take long otherwise. It runs no tensor
# operation itself and children use one thread, so that the fork is safe.
WORKER = '''
import os, signal, sys, time, random, json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from cnnfast import *
import cnnfast.training.states as states
from cnnfast.training.states import write_state
torch.set_num_threads(1)
root = Path(sys.argv[1])

plain = states._bytes
def slowly(t):
    "As on a slow disk, so that there is time to be killed while a checkpoint is written"
    time.sleep(0.001)
    return plain(t)
states._bytes = slowly

def train(name, resume=False):
    dls = digits().subset(per_class=40).dataloaders(bs=32, mix='cutmix')
    cbs = [WeightAverage(0.9), Checkpoint(root/f'{name}.safetensors', resume=resume)]
    learn = scratch_learner(dls, 'fast_cnn', widths=(16, 64, 64), seed=1, patience=4, cbs=cbs)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2)
        learn.fit_linear(3)
    write_state(dict(weights=learn.model.state_dict(), history=learn.history().to_dict('list')), root/f'{name}.result')

def start(name, resume=False):
    if pid := os.fork(): return pid
    try: train(name, resume)
    except BaseException as e: print(type(e).__name__, e, file=sys.stderr, flush=True); os._exit(1)
    os._exit(0)

def ended(pid): return os.waitpid(pid, os.WNOHANG)[0] != 0

def kill(i, seconds):
    "Kill training `i` somewhere, start it again; was it killed, and while it wrote?"
    name,part,rng = f'killed-{i}',root/f'.killed-{i}.safetensors.part',random.Random(i)
    pid,deadline = start(name),time.time() + rng.uniform(0.1, 0.7)*seconds
    def due(): return time.time() >= deadline and (i % 2 == 0 or part.exists()) # every second one while it writes
    while not ended(pid) and not due(): time.sleep(0.0005)
    try: os.kill(pid, signal.SIGKILL); writing = part.exists(); status = os.waitpid(pid, 0)[1]
    except (ProcessLookupError, ChildProcessError): status = 0
    assert os.waitpid(start(name, True), 0)[1] == 0
    return status == signal.SIGKILL, status == signal.SIGKILL and writing

began = time.time()
assert os.waitpid(start('whole'), 0)[1] == 0
seconds = time.time()-began
with ThreadPoolExecutor(2) as ex: print(json.dumps(list(ex.map(partial(kill, seconds=seconds), range(int(sys.argv[2]))))))
'''

def test_killed_twenty_times(tmp_path):
    n = 20
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', WORKER, tmp_path, str(n)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    killed,writing = zip(*json.loads(out.stdout.splitlines()[-1]))
    assert sum(killed) >= n-2 and sum(writing) >= 3
    whole = read_state(tmp_path/'whole.result')
    for i in range(n):
        again = read_state(tmp_path/f'killed-{i}.result')
        assert all((again['weights'][k] == v).all() for k,v in whole['weights'].items()), i
        assert repr(again['history']) == repr(whole['history']), i

# Goes on, or says why not

def learner(cb, bs=64, lr=None, **kwargs):
    learn = scratch_learner(digits().subset(per_class=40, **kwargs).dataloaders(bs=bs), 'cnn', seed=0, lr=lr, cbs=cb)
    learn.remove_cb(ProgressCallback)
    return learn

def fit(learn, epochs=3):
    with learn.no_logging(): learn.fit_one_cycle(epochs)
    return learn

class Unplugged(Callback):
    "Breaks off in the epoch after `_epochs` of them"
    def __init__(self, epochs): self._epochs = epochs
    def after_batch(self):
        if self.training and self.epoch == self._epochs: raise KeyboardInterrupt

@pytest.fixture
def broken_off(tmp_path):
    with pytest.raises(KeyboardInterrupt): fit(learner([Checkpoint(tmp_path/'c.safetensors'), Unplugged(1)]))
    return tmp_path/'c.safetensors'

def same(a, b): return all((v == b.model.state_dict()[k]).all() for k,v in a.model.state_dict().items()) and a.history().equals(b.history())

def test_fine_tuning_goes_on(tmp_path):
    "Frozen and unfrozen parts of `fine_tune`, broken off in either"
    def tune(*cbs):
        learn = transfer_learner(digits().subset(per_class=40).dataloaders(bs=64), 'test_resnet', pretrained=False, size=32, seed=0,
                                 cbs=list(cbs))
        learn.freeze()
        with learn.no_bar(), learn.no_logging(): learn.fine_tune(2, freeze_epochs=2)
        return learn
    whole = tune(Unplugged(9))
    class Fits(Unplugged):
        "Counts epochs over all fits"
        def before_fit(self): self._done = getattr(self, '_done', -1)
        def before_epoch(self): self._done += 1
        def after_batch(self):
            if self.training and self._done == self._epochs: raise KeyboardInterrupt
    for n in (1, 3):
        with pytest.raises(KeyboardInterrupt): tune(Checkpoint(tmp_path/f'{n}.safetensors'), Fits(n))
        again = tune(Checkpoint(tmp_path/f'{n}.safetensors', resume=True), Fits(9))
        assert same(whole, again)

def test_a_file_is_not_overwritten(broken_off):
    with pytest.raises(FileExistsError, match='resume=True goes on'): Checkpoint(broken_off)

@pytest.mark.parametrize('kwargs,epochs,words', {
    'epochs': ({}, 4, 'epochs 3, not 4'), 'batch size': (dict(bs=32), 3, 'batch size 64, not 32'),
    'rate': (dict(lr=1e-3), 3, 'rates .*, not'),
    'classes': (dict(classes=list('01234')), 3, 'classes .*, not')}.values())
def test_other_settings_or_data(broken_off, kwargs, epochs, words):
    before = broken_off.read_bytes()
    with pytest.raises(ValueError, match=f'belongs to another training: it has .*{words}'):
        fit(learner([Checkpoint(broken_off, resume=True), Unplugged(9)], **kwargs), epochs)
    assert broken_off.read_bytes() == before

def test_other_pictures_of_the_same_number(broken_off):
    data = digits().subset(per_class=40, seed=1)
    learn = scratch_learner(data.dataloaders(bs=64), 'cnn', seed=0, cbs=[Checkpoint(broken_off, resume=True), Unplugged(9)])
    with pytest.raises(ValueError, match='pictures .*, not'): fit(learn)

def test_finished_models_of_other_pictures(tmp_path):
    kwargs = dict(models=['cnn'], seeds=1, epochs=1, bs=32, out=tmp_path/'r')
    compare(digits().subset(per_class=10), **kwargs)
    with pytest.raises(ValueError, match='belongs to another training: .*data checksum .*, not'):
        compare(digits().subset(per_class=10, seed=1), resume=True, **kwargs)

def test_pictures_that_are_not_in_memory(tmp_path):
    def loaders(seed): return digits().subset(per_class=10, seed=seed).new(weighted=True).dataloaders(bs=25, in_memory=False, num_workers=0)
    def train(seed, *cbs): return fit(scratch_learner(loaders(seed), 'cnn', seed=0, cbs=cbs))
    path = tmp_path/'c.safetensors'
    with pytest.raises(KeyboardInterrupt): train(0, Checkpoint(path), Unplugged(2))
    with pytest.raises(ValueError, match='pictures .*, not'): train(1, Checkpoint(path, resume=True), Unplugged(9))
    assert same(train(0, Unplugged(9)), train(0, Checkpoint(path, resume=True), Unplugged(9)))

@pytest.mark.parametrize('harm,words', {
    'cut off': (lambda b: b[:-50], 'cut off'), 'altered': (lambda b: b[:-1] + bytes([b[-1] ^ 1]), 'altered'),
    'empty': (lambda b: b'', 'cut off'),
    'a pickle': (lambda b: pickle.dumps(print), 'cut off, damaged or none'),
    'newer': (lambda b: b.replace(b'"format":"1"', b'"format":"9"'), 'newer version')}.values())
def test_damaged_checkpoint(broken_off, harm, words):
    broken_off.write_bytes(harm(broken_off.read_bytes()))
    with pytest.raises(ValueError, match=words): Checkpoint(broken_off, resume=True)

def test_full_disk_keeps_the_checkpoint(broken_off, monkeypatch):
    before,header,plain,left = broken_off.read_bytes(),states._header,states._bytes,[math.inf]
    def begins(*args): left[0] = 3; return header(*args)
    def full(tensor):
        left[0] -= 1
        if left[0] < 0: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(tensor)
    monkeypatch.setattr(states, '_header', begins); monkeypatch.setattr(states, '_bytes', full)
    with pytest.raises(OSError, match='No space left to write .*c.safetensors'):
        fit(learner([Checkpoint(broken_off, resume=True), Unplugged(9)]))
    assert broken_off.read_bytes() == before and [o.name for o in broken_off.parent.iterdir()] == ['c.safetensors']
    monkeypatch.undo()
    assert same(fit(learner([Checkpoint(broken_off, resume=True), Unplugged(9)])), fit(learner([Unplugged(9)])))

def test_run_goes_on(tmp_path, monkeypatch):
    "`cnnfast run --resume`: finished models are not trained again, and what was broken off ends as if it had not been"
    args = ['run', 'digits', '--models', 'ann,cnn', '--epochs', 3, '--seeds', 1]
    assert cnnfast_here(*args, '--out', tmp_path/'whole').returncode == 0
    trained,stop = [],[True]
    class _Watch(Callback): # the underscore: nothing that a checkpoint keeps
        order = Checkpoint.order+1
        def after_epoch(self):
            if not self.learn.epoch_log.training_now: return
            trained.append(self.learn.model_name)
            if stop and trained.count('cnn') == 2: raise KeyboardInterrupt
    init = Checkpoint.__init__
    monkeypatch.setattr(Checkpoint, '__init__', lambda self, path, resume, seconds: init(self, path, resume))
    fit_recipe = Recipe.fit
    def fit(self, learn):
        with learn.added_cbs(_Watch()): fit_recipe(self, learn)
    monkeypatch.setattr(Recipe, 'fit', fit)
    assert cnnfast_here(*args, '--out', tmp_path/'r').returncode == 130
    assert trained == ['ann']*3 + ['cnn']*2 and (tmp_path/'r'/'ann'/'seed-0').exists() and not (tmp_path/'r'/'cnn'/'seed-0').exists()
    stop.clear(); trained.clear()
    res = cnnfast_here(*args, '--out', tmp_path/'r', '--resume')
    assert res.returncode == 0 and 'ann, seed 0' in res.stdout and 'was finished' in res.stdout and trained == ['cnn']
    for o in ('ann', 'cnn'):
        for f in ('weights.safetensors', 'history.csv'):
            assert (tmp_path/'r'/o/'seed-0'/f).read_bytes() == (tmp_path/'whole'/o/'seed-0'/f).read_bytes()
    assert sorted(o.name for o in (tmp_path/'r'/'cnn').iterdir()) == ['seed-0']
    fails_with(cnnfast_here(*args, '--out', tmp_path/'r', '--resume', '--epochs', 4), 'recipe epochs 3, not 4')
    fails_with(cnnfast_here(*args, '--out', tmp_path/'r'), 'exists already', '--resume')
