"Faults that a close reading found, each with a test that fails where it comes back."
import json, math, os, random, resource, shutil, subprocess, sys, warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from fastai.vision.all import Callback, HookCallback
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import precision_recall_fscore_support
from test_standard import write_cifar100
from conftest import TINY, cnnfast_here, fails_with, needs_cifar, needs_tiny
from cnnfast import (Checkpoint, Evaluation, Muon, Recipe, WeightAverage, compare, digits, image_folder, load_model,
                     StopAtNaN, plot_history, save_model, scratch_learner, submission, tiny_imagenet, transfer_learner, try_backbones)
from cnnfast.core.devices import autocast_depth, free_memory
from cnnfast.data import store
from cnnfast.data.pictures import OpenPicture, Picture
from cnnfast.evaluation.intervals import metric_intervals
from cnnfast.saving.folder import _hash
from cnnfast.interpretation.architecture import layer_table
from cnnfast.study import report as report_module, run as run_module
from cnnfast.study.comparison import Comparison
from cnnfast.study.conclusion import conclusion
from cnnfast.study.pipeline import default_models
from cnnfast.study.run import run_recipe
from cnnfast.training import callbacks
from cnnfast.training.checkpoints import pictures_checksum
from cnnfast.training.states import read_state, write_state

def quietly(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()

# 1. The winner is chosen on valid

def fake_run(title, seed, right_on_valid, right_on_test, n=100):
    "A run whose model is right on so many of `n` pictures"
    def evaluation(split, right):
        targs = np.arange(n) % 2
        preds = np.where(np.arange(n) < right, targs, 1-targs)
        return Evaluation(np.eye(2)[preds], targs, ['a', 'b'], title, split)
    test,valid = evaluation('test', right_on_test),evaluation('valid', right_on_valid)
    row = dict(model=title, seed=seed, epochs=1, size=8, valid_accuracy=valid.metrics['accuracy'],
               valid_recall=valid.metrics['recall_macro'], **test.metrics, parameters=1, disk_mb=1.,
               train_seconds=1., pictures_per_second=1., peak_memory_mb=1.)
    history = pd.DataFrame(dict(epoch=[0], train_accuracy=[0.9], valid_accuracy=[right_on_valid/n]))
    return SimpleNamespace(title=title, seed=seed, evaluation=test, valid=valid, row=row, recipe=Recipe('cnn'), history=history,
                           folds=None, data='', times=f'seed {seed}', halved=None)

def test_winner_is_chosen_on_valid():
    "The one that is best on valid, over seeds, though another is ahead on test; and that is said"
    runs = [fake_run('steady', 0, 90, 80), fake_run('steady', 1, 92, 80), fake_run('lucky', 0, 95, 99), fake_run('lucky', 1, 70, 99)]
    c = Comparison(digits(), runs)
    assert list(c.table.index) == ['steady', 'lucky'] and list(c.show_table('test').index) == ['lucky', 'steady']
    says = conclusion(c)[0]
    assert says.startswith('steady classifies 80.0% of the test pictures') and 'chosen on valid, where it is the best with 91.0%' in says
    assert 'On test, lucky is ahead with 99.0%, a difference of 19.0 points: more than chance explains' in says
    assert c.show_table().loc['lucky', 'points behind'].startswith('-19.0')

# 2. What pretraining has seen

@needs_tiny
def test_pretraining_does_not_leak_into_valid(tmp_path):
    data = tiny_imagenet(TINY).subset(['bullfrog', 'koala', 'goldfish'], per_class=20)
    dls = data.dataloaders(bs=20)
    assert default_models(data) == ['ann', 'cnn', 'fast_cnn'] and 'tiny_resnet' in default_models(digits())
    with pytest.raises(ValueError, match='tiny_resnet was pretrained on training pictures of Tiny ImageNet.*allow_seen'):
        compare(data, ['ann', 'tiny_resnet'], seeds=1, epochs=1, dls=dls)
    res = compare(data, ['tiny_resnet', 'ann'], seeds=1, epochs=3, dls=dls, allow_seen=True, verbose=False)
    assert list(res.table.index) == ['ann', 'tiny_resnet'] # not chosen, though it is better
    assert 'training pictures of Tiny ImageNet' in res.show_table().loc['tiny_resnet', 'pretrained on']
    assert 'its figures are too good' in conclusion(res)[0]
    page = res.report(tmp_path/'report.html').read_text()
    assert page.count('training pictures of Tiny ImageNet') >= 2
    with pytest.warns(UserWarning, match='says less than it seems'): try_backbones(data, ['tiny_resnet'], epochs=0)
    never = tiny_imagenet(TINY).subset(['goldfish', 'tabby'], per_class=20) # classes that it has never seen
    assert compare(never, ['tiny_resnet'], seeds=1, epochs=2, dls=never.dataloaders(bs=20), verbose=False).seen == {}

# 3. Costs

def test_speed_is_a_median(monkeypatch):
    "One measurement in which the machine did something else does not stand"
    learn = scratch_learner(digits().dataloaders(bs=64), 'ann')
    clock,calls = [0.],[0]
    def now():
        calls[0] += 1
        clock[0] += 50. if calls[0] == 4 else 0.01 # a long pause in the first measurement
        return clock[0]
    monkeypatch.setattr(run_module.time, 'perf_counter', now)
    assert run_module.inference_speed(learn) > 1000

def test_models_leave_the_device(monkeypatch):
    moves = []
    learner = Recipe.learner
    def watched(self, *args, **kwargs):
        learn = learner(self, *args, **kwargs)
        to = learn.model.to
        learn.model.to = lambda *args, **kwargs: moves.append(str(args)) or to(*args, **kwargs)
        return learn
    monkeypatch.setattr(Recipe, 'learner', watched)
    r = run_recipe(Recipe('ann', epochs=1), digits().dataloaders(bs=64))
    assert moves[-1] == "('cpu',)" and r.learn.opt is None and r.learn.xb == (None,)

def test_speed_in_the_precision_of_the_training(monkeypatch):
    seen = []
    @contextmanager
    def watched(learn, device): seen.append(hasattr(learn, 'mixed_precision')); yield
    monkeypatch.setattr(run_module, 'in_precision_of', watched)
    run_module.inference_speed(scratch_learner(digits().dataloaders(bs=64), 'ann', amp=True))
    assert seen == [True]

# 4. Curves that can be compared

def test_curves_of_one_kind_of_loss():
    "The plain cross entropy of all, whatever their losses are"
    dls = digits().subset(per_class=40).dataloaders(bs=32)
    runs = [run_recipe(Recipe(o, epochs=2), dls) for o in ('cnn', 'fast_cnn')]
    for r in runs: assert np.isclose(r.history.valid_cross_entropy.iloc[-1], r.valid.losses.mean(), rtol=1e-3)
    assert runs[1].history.valid_loss.iloc[-1] > runs[1].history.valid_cross_entropy.iloc[-1] + 0.1 # its own is smoothed
    cmp,of = Comparison(digits(), runs),{r.title:r.history for r in runs}
    axs = cmp.plot_histories()
    assert axs[0].get_title() == 'cross entropy, on valid'
    assert [o.get_label() for o in axs[0].lines] == list(cmp.table.index) # in the table's order, as in `plot_costs`: one colour for a model
    for line in axs[0].lines: assert np.allclose(line.get_ydata(), of[line.get_label()].valid_cross_entropy)
    points = {o.get_label():o.lines[0].get_color() for o in cmp.plot_costs()[0].containers}
    assert points == {o.get_label():o.get_color() for o in axs[0].lines}
    axs = plot_history({r.title:r.history.drop(columns=['train_cross_entropy', 'valid_cross_entropy']) for r in runs})
    assert 'of each its own kind' in axs[0].get_title()

# 5. Scores that are undefined, and balance

def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(20):
        targs,preds = rng.integers(0, 4, 30),rng.choice([0, 1, 5], 30)
        ev = Evaluation(np.eye(6)[preds], targs, list('abcdef'))
        with pytest.warns(UndefinedMetricWarning, match='precision is undefined for'): mine = ev.metrics
        for avg in ('macro', 'weighted'):
            theirs = precision_recall_fscore_support(targs, preds, average=avg, zero_division=0)
            assert np.allclose([mine[f'{k}_{avg}'] for k in ('precision', 'recall', 'f1')], theirs[:3])
            own = metric_intervals(targs, preds, 6, n_resamples=50).value
            assert np.allclose([own[f'{k}_{avg}'] for k in ('precision', 'recall', 'f1')], theirs[:3])
        assert math.isnan(ev.per_class.precision['d'])

def test_balance_is_said(photos):
    data = image_folder(photos)
    for how,said in dict(oversample='train oversampled', undersample='train undersampled', weighted='classes drawn evenly').items():
        even = data.balance(how)
        assert said in repr(even) and even.name != data.name and even.summary().index.name == said
        assert even._cache_dir() == data._cache_dir() # the pictures are the same
    assert 'train and valid oversampled' in repr(data.balance(valid=True))
    assert 'train oversampled' in report_module._data_section('photos', data.balance(), False)['summary']

# 6. Other classes

@needs_cifar
def test_submission_for_other_classes(tmp_path):
    learn = scratch_learner(digits().dataloaders(bs=64), 'ann')
    letters = digits().new(vocab=list('abcdefghij'), unlabelled=[Picture(np.zeros((8, 8), dtype=np.uint8))])
    with pytest.raises(ValueError, match='has other classes than'): submission(learn, letters, tmp_path/'s.csv')
    assert not (tmp_path/'s.csv').exists()

# 7. Folders of strangers

def stranger(folder, config):
    config = {k:v for k,v in config.items() if k != 'checksum'}
    (folder/'config.json').write_text(json.dumps({**config, 'checksum':_hash(config)}))

def places(o, at=()):
    "Where something stands in a configuration"
    yield at
    for k,v in o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else (): yield from places(v, (*at, k))

def changed(config, at, value):
    config = json.loads(json.dumps(config))
    if not at: return value
    o = config
    for k in at[:-1]: o = o[k]
    if value is ...: del o[at[-1]]
    else: o[at[-1]] = value
    return config

VALUES = [None, True, 0, -1, 1, 2**31, 10**9, 1e300, 0.5, '', 'x', '/etc/hostname', '../..', 'resnet18', 'cnn', [], [1], ['a', 'b'], [[]],
          {}, {'a':1},          {'weights':'/etc/hostname'}, [10**6]*3, 'picture', 'classifier', 'ensemble', 'autoencoder', ...]

class Opened:
    "The files that are opened while it is on, as Python's audit events name them"
    def __init__(self): self.on,self.files = False,set(); sys.addaudithook(self)
    def __call__(self, event, args):
        if self.on and event == 'open' and isinstance(args[0], (str, bytes, os.PathLike)):
            self.files.add(os.path.realpath(os.fsdecode(args[0])))
        if self.on and event in ('os.system', 'subprocess.Popen', 'socket.connect', 'pickle.find_class'): self.files.add(f'{event} {args}')
opened = Opened()

@pytest.mark.parametrize('kind', ['own', 'timm', 'autoencoder', 'ensemble'])
def test_fuzzed_configurations(kind, tmp_path):
    "Every field changed to anything: a sentence or a model; no code is run, no file outside is read, no memory or time beyond a bound"
    saved = Path(__file__).parent/'saved'
    if kind in ('autoencoder', 'ensemble'): folder = Path(shutil.copytree(saved/kind, tmp_path/'m'))
    else:
        dls = digits().dataloaders(bs=64)
        learn = scratch_learner(dls, 'cnn') if kind == 'own' else transfer_learner(dls, 'tiny_resnet', pretrained=False, size=16)
        folder = save_model(learn, tmp_path/'m')
    whole,rng = json.loads((folder/'config.json').read_text()),random.Random(0)
    load_model(folder, 'cpu')
    todo = [(at, v) for at in places(whole) for v in VALUES if at not in ((), ('checksum',))]
    todo = [o for o in todo if len(o[0]) < 3 or o[0][0] == 'architecture'] # metrics are not looked at
    before,refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,0
    for at,v in rng.sample(todo, min(len(todo), 300)):
        stranger(folder, changed(whole, at, v))
        opened.files,opened.on = set(),True
        try: load_model(folder, 'cpu')
        except (ValueError, FileNotFoundError) as e:
            refused += 1
            assert 20 < len(str(e)) < 600 and '\n' not in str(e), (at, v, e)
        finally: opened.on = False
        outside = [o for o in opened.files if o.startswith(('/etc', '/proc', 'os.', 'subprocess', 'socket', 'pickle'))
                   or (o.endswith(('.safetensors', '.json')) and not o.startswith(str(tmp_path.resolve())))]
        assert not [o for o in outside if 'tiny_resnet' not in o], (at, v, outside)
    assert refused > 100
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300*1024 # KB

def test_configuration_that_names_a_file(tmp_path):
    "The one that was found: `weights` among the arguments of the architecture"
    folder = save_model(transfer_learner(digits().dataloaders(bs=64), 'tiny_resnet', pretrained=False, size=16), tmp_path/'m')
    config = json.loads((folder/'config.json').read_text())
    config['architecture']['kwargs'] = {'weights':'/etc/hostname'}
    stranger(folder, config)
    with pytest.raises(ValueError, match="'weights' is no part of an architecture"): load_model(folder)

def test_arguments_that_cannot_be_saved_show_before_training(tmp_path):
    recipe = Recipe('resnet18', pretrained=False, epochs=1, kwargs=dict(act_layer=nn.ReLU))
    with pytest.raises(ValueError, match='made with act_layer, which is no number'):
        compare(digits().new(size=32), [recipe], seeds=1, out=tmp_path/'out', verbose=False)
    assert not (tmp_path/'out').exists()

# 8. A torch whose `weights_only` holds

def test_minimum_of_torch():
    import configparser
    c = configparser.ConfigParser()
    c.read(Path(__file__).parent.parent/'settings.ini')
    need = next(o for o in c['DEFAULT']['requirements'].split() if o.startswith('torch>='))
    assert tuple(map(int, need[len('torch>='):].split('.'))) >= (2, 10) # CVE-2025-32434 (2.6), CVE-2026-24747 (2.10)

# 9. Markup in names

def test_names_are_escaped(tmp_path):
    evil = '<img src=x onerror=alert(1)>'
    data = digits().subset(2).new(vocab=[evil, '$\\frac$'], name='<b>data</b>')
    res = compare(data, {'<i>net</i>':'ann', 'cnn':'cnn'}, seeds=1, epochs=1, verbose=False)
    page = res.report(tmp_path/'r.html', title='<u>title</u>').read_text()
    assert 'Missing here' not in page
    for html in (page, res._repr_html_(), res.runs[0].evaluation.roc()._repr_html_()):
        for o in (evil, '<b>data', '<i>net', '<u>title'): assert o not in html
    assert '&lt;img src=x' in page and '&lt;i&gt;net' in page

# 10. After an exception

class Fails(Callback):
    "Raises `error` at `event` of the second batch of training"
    order = 50
    def __init__(self, event, error): self.event,self.error,self.armed = event,error,True; setattr(self, event, self._fail)
    def _fail(self):
        if self.armed and self.training and self.iter == 1: self.armed = False; raise self.error

class Watches(HookCallback):
    def __init__(self): super().__init__(modules=None, remove_end=True)
    def hook(self, m, i, o): return None

@pytest.mark.parametrize('more', [Watches, WeightAverage])
@pytest.mark.parametrize('event', ['before_batch', 'after_pred', 'after_loss', 'after_step'])
@pytest.mark.parametrize('error', [KeyboardInterrupt(), MemoryError('full'), FloatingPointError('nan')], ids=['interrupt', 'memory', 'nan'])
def test_nothing_stays_behind(event, error, more, monkeypatch):
    set_limits = []
    monkeypatch.setattr(callbacks, '_limits', lambda libc, *args: set_limits.append(args))
    learn = scratch_learner(digits().dataloaders(bs=64, mix='cutmix'), 'cnn', amp=True, seed=0, cbs=[more(), Fails(event, error)])
    loss,depth,cudnn = learn.loss_func,autocast_depth(),torch.backends.cudnn
    flags = cudnn.deterministic,cudnn.benchmark
    try:
        with pytest.raises(type(error)): quietly(learn, lambda: learn.fit(1))
        assert autocast_depth() == depth and learn.loss_func is loss and (cudnn.deterministic, cudnn.benchmark) == flags
        assert not any(m._forward_hooks for m in learn.model.modules())
        assert learn.keep_memory.libc is None and (not set_limits or set_limits[-1] == (2**26, 2**25, 2**16)) # the limits of glibc
        assert learn.xb == (None,) and all(o._weights is None for o in learn.cbs if isinstance(o, StopAtNaN))
        quietly(learn, lambda: learn.fit(1)) # and it can go on
        assert autocast_depth() == depth and learn.loss_func is loss
    finally:
        while autocast_depth() > depth: torch.autocast_decrement_nesting()

# 11. Checkpoints in mixed precision

def test_checkpoint_in_mixed_precision(tmp_path):
    "It ends, and one that was broken off ends alike"
    def learner(file, *cbs):
        return scratch_learner(digits().subset(per_class=20).dataloaders(bs=32), 'cnn', seed=0, amp=True, cbs=[*file, *cbs])
    def weights(learn): return torch.cat([o.flatten().float() for o in learn.model.state_dict().values()])
    whole = learner([Checkpoint(tmp_path/'whole.safetensors')])
    quietly(whole, lambda: whole.fit_one_cycle(3))
    class _Stop(Callback): # the underscore: nothing that a checkpoint keeps
        def before_epoch(self):
            if self.epoch == 2: raise KeyboardInterrupt
    first = learner([Checkpoint(tmp_path/'c.safetensors')], _Stop())
    with pytest.raises(KeyboardInterrupt): quietly(first, lambda: first.fit_one_cycle(3))
    again = learner([Checkpoint(tmp_path/'c.safetensors', resume=True)])
    quietly(again, lambda: again.fit_one_cycle(3))
    assert torch.equal(weights(whole), weights(again))

# 12. A report in spite of everything

def test_report_in_spite_of_everything(tmp_path, monkeypatch):
    dls = digits().subset(per_class=20).dataloaders(bs=32)
    c = Comparison(digits(), [run_recipe(Recipe(o, epochs=1), dls, seed) for o in ('ann', 'cnn') for seed in (0, 1)])
    c.autoencode(epochs=1)
    together = [['_metrics_table', '_class_table', '_trained', '_examples', '_inside'],
                ['plot_history', 'look_at', '_data_section', 'conclusion'],
                ['_ensemble_section', '_autoencoder_section', '_model_section', '_table'], ['_rendered']]
    for names in together:
        def fails(name):
            def broken(*args, **kwargs): raise RuntimeError(f'{name} <fails>')
            return broken
        with monkeypatch.context() as m, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            for k in names: m.setattr(report_module, k, fails(k))
            page = c.report(tmp_path/f'{names[0]}.html').read_text()
        for k in names: assert f'{k} &lt;fails&gt;' in page and any(f'{k} <fails>' in str(o.message) for o in said), k
        assert page.rstrip().endswith('</html>') and '<h2 id="models">' in page

def test_layers_that_return_tuples():
    "As in timm's sequencer: the table says what it can, and no hook stays"
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn,self.head = nn.LSTM(8, 4, batch_first=True),nn.Linear(4, 10)
        def forward(self, x): return self.head(self.rnn(x.mean(1))[0][:,-1])
    learn = scratch_learner(digits().dataloaders(bs=64), Net())
    t = layer_table(learn)
    assert t.output[0].startswith('8×4, ') and not any(o._forward_hooks for o in learn.model.modules())

# 13. Containers

@pytest.mark.parametrize('version', [1, 2])
def test_limits_of_containers(version, tmp_path, monkeypatch):
    "What a control group leaves is all that decoded pictures may take half of"
    group,own = tmp_path/'cgroup'/('memory/job' if version == 1 else 'job'),tmp_path/'own'
    group.mkdir(parents=True)
    own.write_text('4:memory:/job\n' if version == 1 else '0::/job\n')
    names = ('limit_in_bytes', 'usage_in_bytes', 'stat') if version == 1 else ('max', 'current', 'stat')
    for k,v in zip(names, (300*2**20, 100*2**20, f'{"total_" if version == 1 else ""}inactive_file {20*2**20}')):
        (group/f'memory.{k}').write_text(f'{v}\n')
    assert free_memory(tmp_path/'cgroup', own) == 220*2**20
    monkeypatch.setattr(store, 'free_memory', partial(free_memory, tmp_path/'cgroup', own))
    assert store.memory_budget() == 110*2**20
    assert not store.goes_in_memory(SimpleNamespace(items=range(1000), n_in=3, keeper=OpenPicture(224), name='photos'))

# 14. Lazy data

@needs_cifar
def test_lazy_data_is_told_apart(photos):
    def checksum(): return pictures_checksum(image_folder(photos).dataloaders(bs=32, in_memory=False, num_workers=0).train)
    before,data = checksum(),image_folder(photos)
    assert checksum() == before
    file = Path(data.items[int(data.splits['train'][0])])
    for o in photos.rglob('*.png'): os.utime(o, (1, 1)) # copied: the same pictures
    assert checksum() == before
    old = file.read_bytes()
    file.write_bytes(old[:-30] + bytes([old[-30] ^ 1]) + old[-29:]) # as long as before
    assert checksum() != before
    file.write_bytes(old)
    assert checksum() == before
    labels = data.new(targs=1-data.targs)
    assert pictures_checksum(labels.dataloaders(bs=32, in_memory=False, num_workers=0).train) != \
           pictures_checksum(data.dataloaders(bs=32, in_memory=False, num_workers=0).train)

# 15. Two trainings at once (benchmarks/together.py has the times)

@pytest.mark.parametrize('before,expected', [('', 'PASSIVE'), ('import torch', None),
                                             ('import os; os.environ["OMP_WAIT_POLICY"] = "ACTIVE"', 'ACTIVE')])
def test_waiting_threads_sleep(before, expected):
    "Unless torch has begun without, or the user wants it otherwise"
    env = {k:v for k,v in os.environ.items() if k != 'OMP_WAIT_POLICY'}
    code = f'{before}\nimport os, cnnfast\nprint(os.environ.get("OMP_WAIT_POLICY"))'
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == str(expected)

# 16. What is not there, and what is not known

def test_no_test_split():
    data = digits()
    two = data.new(splits={k:data.splits[k] for k in ('train', 'valid')}).dataloaders(bs=64)
    assert not hasattr(two, 'test') and getattr(two, 'test', None) is None and hasattr(data.dataloaders(bs=64), 'test')
    with pytest.raises(AttributeError, match='no test split'): two.test

def test_muon_leaves_pretrained_filters_alone():
    dls = digits().dataloaders(bs=64)
    for opt in ('muon', Muon):
        with pytest.raises(ValueError, match='what pretraining has put into it would be lost'): transfer_learner(dls, opt_func=opt)
    learn = transfer_learner(dls, opt_func=partial(Muon, rescale=False), lr=0.01)
    learn = scratch_learner(data_32(), 'resnet18', opt_func='muon') # of timm's: nothing is known of its normalisation
    learn.create_opt()
    assert not learn.opt.hypers[0]['rescale'] and learn.lr == 0.1
    learn = scratch_learner(dls, 'fast_cnn'); learn.create_opt()
    assert learn.opt.hypers[0]['rescale']

def data_32(): return digits().new(size=32).dataloaders(bs=64)

@pytest.mark.parametrize('make,word,near', [
    (lambda d: scratch_learner(d, 'fast_cnn', widhts=(1, 2)), 'widhts', 'widths'), (lambda d: scratch_learner(d, 'cnn', patiance=3),
                                                                                    'patiance', 'patience'),
    (lambda d: scratch_learner(d, nn.Flatten(), dropout=1), 'dropout',
     'there are|did you mean'), (lambda d: transfer_learner(d, drop_rat=0.1), 'drop_rat', 'drop_rate'),
    (lambda d: transfer_learner(d, 'resnet18', lin_ftr=[3]), 'lin_ftr', 'lin_ftrs'),
    (lambda d: compare(digits(), ['ann'], augmant='none'), 'augmant', 'augment')])
def test_unknown_keywords_are_named(make, word, near, monkeypatch):
    "Before anything is built"
    dls = digits().dataloaders(bs=64)
    def built(*args, **kwargs): raise AssertionError('it was built')
    for o in ('cnnfast.training.learner.create_model', 'cnnfast.training.transfer.assemble_model'): monkeypatch.setattr(o, built)
    with pytest.raises(TypeError, match=f'{word}.*({near})'): make(dls)

def test_rate_of_zero():
    dls = digits().dataloaders(bs=64)
    for lr in (0, -1., math.inf, math.nan):
        with pytest.raises(ValueError, match='a rate is a number above 0'): scratch_learner(dls, 'ann', lr=lr)
        with pytest.raises(ValueError, match='a rate is a number above 0'): transfer_learner(dls, lr=lr)
        with pytest.raises(ValueError, match='a rate is a number above 0'): compare(digits(), ['ann'], lr=lr)
        with pytest.raises(ValueError, match='a rate is a number above 0'): scratch_learner(dls, 'ann').fit_linear(1, lr=lr)

# 17. Large states

def test_states_are_streamed(tmp_path):
    "Writing a state takes a fraction of its size, no copy of it"
    code = f'''
import resource, sys, torch
from cnnfast.training.states import write_state
state = dict(model={{str(i):torch.rand(2**20) for i in range(100)}}, done=(1, None))
write_state(dict(few=torch.ones(2)), {str(tmp_path/'few')!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_state(state, {str(tmp_path/'large')!r})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)/1024)
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert (tmp_path/'large').stat().st_size > 400*2**20 and float(out.stdout) < 100 # MB
    assert len(read_state(tmp_path/'large')['model']) == 100

# 18. The command line

@needs_cifar
def test_options_of_named_data_sets(tmp_path, cifar_2000):
    res = cnnfast_here('run', 'cifar10', '--path', cifar_2000, '--size', 48, '--classes', 'cat,dog', '--per-class', 30,
                       '--models', 'gelu,ann', '--epochs', 1,
                       '--seeds', 1, '--balance', 'oversample', '--balance-valid', '--out', tmp_path/'out')
    assert res.returncode == 0, res.stderr
    assert '2 classes; 48×48' in res.stdout and 'train and valid oversampled' in res.stdout
    t = pd.read_csv(tmp_path/'out'/'results.csv')
    assert list(t.model) == ['gelu', 'ann']
    assert load_model(tmp_path/'out'/'gelu'/'seed-0').classes == ['cat', 'dog']

@pytest.mark.parametrize('args,words', [
    (['digits', '--classes', 'ten'], ["no class 'ten'"]), (['digits', '--classes', '11'],
                                                           ['give 2 to 10']), (['digits', '--per-class', '0'], ['--per-class 0']),
    (['digits', '--split', 'kaggle'], ['--split kaggle is for cifar100']), (['digits', '--balance-valid'], ['goes with --balance']),
    (['digits', '--balance', 'weighted', '--balance-valid'], ['weighted']), (['digits', '--resize', 'pad'], ['for your own pictures'])])
def test_options_that_do_not_fit(args, words, tmp_path): fails_with(cnnfast_here('run', *args, '--out', tmp_path/'out'), *words)

def test_competition_split_on_the_command_line(tmp_path):
    "Of CIFAR-100: a tenth of train for valid, and no labels of test"
    path = write_cifar100(tmp_path/'cifar-100-python')
    res = cnnfast_here('run', 'cifar100', '--path', path, '--split', 'kaggle', '--models', 'ann', '--epochs', 1, '--seeds', 1, '--out',
                       tmp_path/'out')
    assert res.returncode == 0, res.stderr
    assert '400 unlabelled' in res.stdout and ' test,' not in res.stdout.splitlines()[0]
    assert (tmp_path/'out'/'report.html').exists()
