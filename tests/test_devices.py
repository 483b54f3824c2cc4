"""Devices that this machine has not: everything runs on an imagined one, or says why not.

One that is not there, or is full, gets a sentence."""
import io, json, re, tokenize
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.vision.all import Callback, Learner, nn
from conftest import ROOT, cnnfast_here, fails_with, make_photographs
from imagined import Imagined, Refused, has_list, known_to
from cnnfast.data.dataset import digits
from cnnfast.data.folders import image_folder
from cnnfast.data.standard_sets import cifar10_sample
from cnnfast.models.scratch import cnn
from cnnfast.training.callbacks import CompileModel, ProgressiveResizing, WeightAverage
from cnnfast.training.checkpoints import Checkpoint
from cnnfast.training.learner import ImageLearner, scratch_learner
from cnnfast.training.optimizers import OPTIMIZERS
from cnnfast.training.probe import probe
from cnnfast.training.transfer import transfer_learner
from cnnfast.evaluation.metrics import evaluate
from cnnfast.interpretation.activations import activations, look_at
from cnnfast.interpretation.embeddings import embeddings
from cnnfast.interpretation.filters import filter_patterns
from cnnfast.interpretation.maps import class_maps, occlusion_maps
from cnnfast.saving.folder import load_model, save_model
from cnnfast.ensembling.ensemble import ensemble
from cnnfast.autoencoder.latents import latent_vectors
from cnnfast.autoencoder.reconstruction import autoencoder_learner, reconstruction_scores
from cnnfast.study import pipeline
from cnnfast.study.budget import fit as fit_minutes
from cnnfast.study.pipeline import compare
from cnnfast.study.recipe import Recipe

needs_xpu_list = pytest.mark.skipif(not has_list('XPU'), reason="this version of PyTorch does not list what Intel's GPUs have")
KINDS = ['mps', pytest.param('xpu', marks=needs_xpu_list)]

def fit(learn, f='fit', *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, f)(*(args or (1,)), **kwargs)
    return learn

def weights(learn): return torch.cat([o.detach().flatten().float().cpu() for o in learn.model.state_dict().values()])

def of_each(data, n):
    "`data` with `n` training pictures of each class, and 60 of valid and test"
    data = data.subset(per_class=n)
    return data.new(splits={k:v if k == 'train' else v[:60] for k,v in data.splits.items()})

@pytest.fixture(scope='module')
def few(): return of_each(digits(), 20)

@pytest.fixture(scope='module')
def colours(): return of_each(cifar10_sample(), 9)

# What stands in the code

def test_no_device_by_name():
    "No name of a device but the CPU's, and no module of PyTorch for one, in any module but that of devices; comments are prose"
    found = []
    for file in (ROOT/'cnnfast').rglob('*.py'):
        if file.name == '_modidx.py' or file.relative_to(ROOT/'cnnfast').as_posix() == 'core/devices.py': continue
        for o in tokenize.generate_tokens(io.StringIO(file.read_text(encoding='utf-8')).readline):
            text = o.type in (tokenize.NAME, tokenize.STRING, getattr(tokenize, 'FSTRING_MIDDLE', -1))
            if text and re.search(r'\b(mps|xpu|hip|mtia|npu)\b|cuda', o.string): found.append(f'{file.name}:{o.start[0]}: {o.line.strip()}')
    assert not found, '\n'.join(found)

# The imagined device itself: what it must refuse

def test_imagined_refuses():
    with Imagined('mps') as w:
        x,conv = torch.zeros(2, 3, 8, 8, device='mps'),nn.Conv2d(3, 3, 3).to('mps')
        for f in (lambda: x+torch.ones(8), lambda: x.double(), lambda: torch.zeros(2, device='mps', dtype=torch.float64),
                  lambda: conv(x.contiguous(memory_format=torch.channels_last)), lambda: F.adaptive_avg_pool2d(x, 3),
                  lambda: F.conv2d(x, conv.weight[:1].expand(3, 3, 3, 3)), lambda: torch.as_tensor(np.ones(2), device=x.device)):
            with pytest.raises(Refused): f()
        with pytest.raises(TypeError, match='numpy'): x.numpy()
        with pytest.raises(NotImplementedError, match='not currently implemented for the MPS device'): torch.linalg.eigvals(x[0,0])
        assert x.cpu().numpy().shape == (2, 3, 8, 8) and (x+1).device == torch.device('mps', 0) and x.cpu().device.type == 'cpu'
        conv(x).sum().backward()
        assert conv.weight.grad.device == w.device and x[torch.tensor([1])].device == w.device
    assert not known_to('_linalg_eigvals', 'MPS') and known_to('add.Tensor', 'MPS') and known_to('_fused_adamw_', 'XPU')

# Trainings there: the same numbers as on the CPU

TRAININGS = {
    'ann':dict(model='ann'), 'cnn':dict(model='cnn'), 'fast_cnn':dict(model='fast_cnn'),
    'norms and poolings':dict(model='custom_cnn', norm='instance', pool='avg', activation='mish'),
    **({'groups':dict(model='custom_cnn', norm='group', activation='selu')} if known_to('native_group_norm_backward', 'MPS') else {}),
    'kept busy':dict(model='fast_cnn', keep_busy=True, cbs=lambda: ProgressiveResizing(multiple=1)),
    'kept busy with Adam':dict(model='custom_cnn', keep_busy=True, opt_func='adam'),
    'compiled':dict(model='cnn', cbs=lambda: CompileModel(backend='eager')),
    'stopped early, averaged':dict(model='cnn', patience=1, cbs=lambda: WeightAverage(0.9)),
    **{f'{o} steps':dict(model='cnn', opt_func=o, lr=1e-3) for o in OPTIMIZERS if o not in ('adam', 'muon')}}

LOADERS = {'strong':dict(augment='strong'), 'standard':dict(augment='standard'), 'mixed':dict(mix='mixup'),
           'each by its own':dict(normalize='picture'), 'not normalised':dict(normalize='none'),
           'one by one':dict(in_memory=False, num_workers=0)}

def both(kind, data, loaders={}, **kwargs):
    "The same training on the CPU and on the imagined device"
    cbs = kwargs.pop('cbs', lambda: None)
    def train(device): return fit(scratch_learner(data.dataloaders(bs=32, device=device, **loaders), seed=0, cbs=cbs(), **kwargs))
    here = train('cpu')
    with Imagined(kind) as w: there = train(kind); evaluate(there)
    assert next(there.model.parameters()).device.type == 'cpu' and w.has(next(there.model.parameters())) and sum(w.used.values()) > 300
    return here,there

@pytest.mark.parametrize('kwargs', TRAININGS.values(), ids=TRAININGS)
def test_training_on_a_mac(few, kwargs):
    here,there = both('mps', few, **kwargs)
    assert np.allclose(here.history(), there.history(), atol=0.02)

@pytest.mark.parametrize('loaders', LOADERS.values(), ids=LOADERS)
def test_loading_on_a_mac(few, loaders):
    here,there = both('mps', few, loaders, model='cnn')
    assert np.allclose(here.history(), there.history(), atol=0.02)

@needs_xpu_list
@pytest.mark.parametrize('kwargs', [TRAININGS['cnn'], TRAININGS['kept busy'], TRAININGS['kept busy with Adam']])
def test_training_on_an_intel_gpu(few, kwargs):
    here,there = both('xpu', few, **kwargs)
    assert np.allclose(here.history(), there.history(), atol=0.02)

def test_weighted_there(few):
    for busy in (False, True):
        _,there = both('mps', few.balance('weighted'), model='fast_cnn', keep_busy=busy)
        assert there.history().notna().all(axis=None)

def test_uneven_maps(colours):
    "A map of 12 pixels a side in 8 parts is averaged on the CPU where the device cannot"
    here,there = both('mps', colours.new(size=48), model='cnn')
    assert np.allclose(here.history(), there.history(), atol=0.02)
    torch.manual_seed(0)
    assert torch.equal(cnn(size=48)[2](x := torch.rand(2, 3, 12, 12)), F.adaptive_avg_pool2d(x, 8))

@pytest.mark.parametrize('kind', KINDS)
def test_photographs_there(tmp_path, kind):
    data = image_folder(make_photographs(tmp_path/'photographs')).new(size=48)
    with Imagined(kind):
        def loaders(**kwargs): return data.dataloaders(bs=8, device=kind, **kwargs)
        for o in ('none', 'flip_crop', 'standard', 'strong'):
            assert fit(scratch_learner(loaders(augment=o), 'fast_cnn', seed=0)).history().notna().all(axis=None)
        learn = probe(loaders(), 'tiny_resnet')
        assert fit(learn, 'fine_tune_probe').history().train_loss.notna().all() and evaluate(learn).probs.shape[1] == 2

# All else there

@pytest.fixture(scope='module')
def trained(colours):
    "A network that was trained on an imagined Mac, and that Mac"
    with Imagined('mps') as mac: learn = fit(scratch_learner(colours.dataloaders(bs=32, device='mps'), 'fast_cnn', seed=0))
    return learn,mac

def test_evaluated_there(trained):
    learn,mac = trained
    with mac:
        several = evaluate(learn, multi_crop=True)
        ens = ensemble([learn, learn], 'logits', names=['a', 'b'], tta=True)
        assert np.allclose(ens.probs(), several.probs, atol=1e-4) and len(ens.table()) == 3

def test_looked_into_there(trained):
    learn,mac = trained
    with mac:
        shown = look_at(learn, 3)
        for method in ('gradcam', 'hirescam'): assert class_maps(learn, shown, method=method)[0].shape == (3, 32, 32)
        assert occlusion_maps(learn, shown, patch=16)[0].shape == (3, 32, 32) and len(activations(learn, shown)) > 2
        assert filter_patterns(learn, channels=2, steps=9)[0].shape == (2, 32, 32, 3) and len(embeddings(learn, n=20)[0]) == 20

def test_saved_and_resumed_there(trained, few, tmp_path):
    learn,mac = trained
    pics = np.stack([np.asarray(o.array) for o in learn.dls.valid_ds.items[:4]])
    class _Stop(Callback):
        order = 2000
        def after_epoch(self):
            if self.epoch == 0: raise KeyboardInterrupt
    def run(*cbs): return scratch_learner(few.dataloaders(bs=32, device='mps'), 'cnn', seed=0, cbs=cbs)
    with mac:
        save_model(learn, tmp_path/'model')
        there = load_model(tmp_path/'model', 'mps')
        said = there.predict_proba(pics)
        with pytest.raises(KeyboardInterrupt): fit(run(Checkpoint(tmp_path/'c.safetensors', resume=True), _Stop()), 'fit', 2)
        resumed,whole = fit(run(Checkpoint(tmp_path/'c.safetensors', resume=True)), 'fit', 2),fit(run(), 'fit', 2)
        assert torch.equal(weights(resumed), weights(whole)) and there.device == mac.device
        fit(run(), 'lr_find', 1e-5, num_it=20, show_plot=False)
    assert np.allclose(load_model(tmp_path/'model', 'cpu').predict_proba(pics), said, atol=1e-5)

def test_fine_tuned_and_drawn_there(colours, trained):
    learn,mac = trained
    with mac:
        tuned = fit(transfer_learner(colours.dataloaders(bs=32, device='mps'), 'tiny_resnet', seed=0, size=32), 'fine_tune')
        assert fit(tuned, 'fit_head').history().notna().all(axis=None)
        for how in (dict(target='masked'), dict(skips=False, loss='perceptual')):
            ae = fit(autoencoder_learner(learn, seed=0, width=8, **how))
            assert reconstruction_scores(ae, 'valid').notna().all(axis=None)
        assert latent_vectors(ae, 'valid')[0].shape[1] == 256

@needs_xpu_list
def test_compared_there(few):
    with Imagined('xpu'): c = compare(few, ['cnn'], epochs=1, seeds=1, device='xpu', verbose=False)
    r, = c.runs
    assert r.machine == 'an imagined xpu' and len(r.history) == 1

@pytest.mark.parametrize('kind', KINDS)
def test_mixed_precision_is_refused_there(few, kind):
    with Imagined(kind):
        dls = few.dataloaders(bs=32, device=kind)
        with pytest.raises(ValueError, match=f'amp=True: .* on {kind}.* leave amp out'): scratch_learner(dls, 'cnn', amp=True)
        assert not hasattr(scratch_learner(dls, 'cnn', keep_busy=True), 'mixed_precision')

def test_what_is_missing_there(few):
    "A step that the device has not: its name, and what to do"
    class Odd(nn.Module):
        def forward(self, x): return x + torch.linalg.eigvals(x[:1,0].detach()).real.sum()
    with Imagined('mps'):
        learn = scratch_learner(few.dataloaders(bs=32, device='mps'), nn.Sequential(Odd(), nn.Flatten(), nn.Linear(64, 10)), seed=0)
        words = 'mps.* cannot do linalg_eig.* use another device .cpu can.*PYTORCH_ENABLE_MPS_FALLBACK=1'
        with pytest.raises(ValueError, match=words): fit(learn)

# A device that is not there

NONE = ['cuda:77', 'foo', 'meta', torch.device('cuda', 77)]

@pytest.mark.parametrize('device', NONE)
def test_no_such_device(few, device, tmp_path, monkeypatch):
    monkeypatch.setattr(type(few), 'decoded', lambda *args, **kwargs: pytest.fail('decodes first'))
    there = pytest.raises(ValueError, match=f"device='{device}': this machine has no such device, only cpu")
    with there: few.dataloaders(device=device)
    with there: compare(few, ['cnn'], device=device, out=tmp_path/'out')
    with there: load_model(tmp_path/'no-model', device)
    with there: ensemble([tmp_path/'no-model'], device=device)
    assert not list(tmp_path.iterdir())

def test_no_such_device_for_photographs(tmp_path):
    data = image_folder(make_photographs(tmp_path/'photographs'))
    with pytest.raises(ValueError, match="device='foo': this machine has no such device"):
        fit_minutes(data, 1, device='foo', out=tmp_path/'out')
    assert not (tmp_path/'out').exists()

def test_no_such_device_of_loaders(few):
    dls = few.dataloaders(bs=32, device='cpu')
    dls._device = torch.device('cuda', 77)
    for f in (scratch_learner, transfer_learner):
        with pytest.raises(ValueError, match="device='cuda:77': this machine has no such device"): f(dls)

@pytest.mark.parametrize('device', NONE[:2])
def test_no_such_device_of_the_command(device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [f'--device {device}: this machine has no such device, only cpu']
    for args in (['run', 'digits'], ['predict', 'model', 'a.png'], ['submit', 'model', '--pictures', '.']):
        fails_with(cnnfast_here(*args, '--device', device), *words)
    assert not list(tmp_path.iterdir())

def test_full_from_the_start(few):
    "Others have taken its memory: told before pictures are decoded"
    with Imagined('mps') as w, pytest.MonkeyPatch.context() as m:
        def empty(*args, **kwargs): raise RuntimeError('MPS backend out of memory (MPS allocated: 8.89 GB, other allocations: 172.98 MB)')
        m.setattr(torch, 'empty', empty)
        with pytest.raises(MemoryError, match="device='mps': its memory is full.*another: cpu, mps:0"): few.dataloaders(device='mps')

def test_any_error_of_a_device_is_a_sentence(monkeypatch, tmp_path):
    "Wherever it comes from, the command shows no traceback"
    for error,words in ((torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB.'), 'No memory left on the device'),
                        (NotImplementedError("The operator 'aten::foo' is not currently implemented for the XPU device."),
                         'the device cannot do foo')):
        def fails(*args, **kwargs): raise error
        monkeypatch.setattr('cnnfast.study.pipeline.compare', fails)
        fails_with(cnnfast_here('run', 'digits', '--out', tmp_path/'out'), words)
    def fails(*args, **kwargs): raise RuntimeError('shapes differ')
    monkeypatch.setattr('cnnfast.study.pipeline.compare', fails)
    with pytest.raises(RuntimeError, match='shapes'): cnnfast_here('run', 'digits', '--out', tmp_path/'out')

# A device that is full in the middle of the work

FULL = {'cuda':torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 8 GiB'),
        'mps':RuntimeError('MPS backend out of memory (MPS allocated: 8.89 GB, max allowed: 9.07 GB). Tried to allocate 6.25 MB.'),
        'xpu':RuntimeError('UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)'),
        'cpu':RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")}

@pytest.fixture
def little(monkeypatch):
    "Lets no more than `most` pictures be trained on at once, by the models called `names`"
    def f(most, names=('cnn',), error=FULL['cuda']):
        step = Learner._do_one_batch
        def limited(self):
            if self.training and getattr(self, 'model_name', '') in names and len(self.xb[0]) > most: raise error
            return step(self)
        monkeypatch.setattr(ImageLearner, '_do_one_batch', limited, raising=False)
    return f

@pytest.mark.parametrize('error', FULL.values(), ids=FULL)
def test_full_in_a_fit(few, little, error):
    "A learner says what to do; nothing is tried behind one's back"
    little(16, error=error)
    learn = scratch_learner(few.dataloaders(bs=32, device='cpu'), 'cnn', seed=0)
    with pytest.raises(MemoryError, match='No memory left on cpu for a batch of 32 pictures of 8×8 pixels: try half, bs=16, .*device'):
        fit(learn)
    assert learn.xb == (None,)

def test_full_outside_of_a_batch(few, monkeypatch):
    learn = scratch_learner(few.dataloaders(bs=32, device='cpu'), 'cnn', seed=0)
    def to(*args, **kwargs): raise FULL['mps']
    monkeypatch.setattr(learn.model, 'to', to)
    with pytest.raises(MemoryError, match='No memory left on cpu for cnn: try a smaller model'): fit(learn)

def test_halved_once(few, little, tmp_path, capsys, monkeypatch):
    "The batch size is halved with a line; run, table and report say so; taken up again it is still known"
    little(16)
    c = compare(few, ['ann', 'cnn'], epochs=2, seeds=1, bs=32, out=tmp_path/'out', device='cpu')
    said = [o for o in capsys.readouterr().out.splitlines() if 'memory' in o]
    assert said == ['[2/2] cnn, seed 0: no memory for batches of 32: it starts again in batches of 16']
    ann,own = c.runs
    assert (ann.halved, own.halved, own.learn.dls.train.bs, own.learn.dls.valid.bs, len(own.history)) == (None, 32, 16, 32, 2)
    config = json.loads((tmp_path/'out'/'cnn'/'seed-0'/'config.json').read_text())
    assert (config['bs'], config['halved'], config['recipe']['bs']) == (16, 32, None)
    assert 'halved' not in json.loads((tmp_path/'out'/'ann'/'seed-0'/'config.json').read_text())
    assert c.show_table().batches.to_dict() == {'ann':'', 'cnn':'16 instead of 32, for which there was no memory'}
    page = (tmp_path/'out'/'report.html').read_text()
    assert 'cnn was trained in batches of 16 instead of 32, for which there was no memory, so that like is not compared with like.' in page
    assert page.count('16 instead of 32') == 2 and not list((tmp_path/'out').rglob('.*')) # the table's note, and how it was trained
    monkeypatch.setattr('cnnfast.study.pipeline.write_report', lambda *_, **kwargs: None)
    again = compare(few, ['ann', 'cnn'], epochs=2, seeds=1, bs=32, out=tmp_path/'out', device='cpu', resume=True)
    assert 'starts again' not in capsys.readouterr().out and again.runs[1].halved == 32
    assert np.array_equal(again.runs[1].evaluation.probs, own.evaluation.probs)
    with pytest.raises(ValueError, match='belongs to another training: it has bs 16, not 8, halved 32, not 16'):
        compare(few, ['cnn'], epochs=2, seeds=1, bs=16, out=tmp_path/'out', device='cpu', resume=True, verbose=False)

def test_halved_from_the_beginning(few, little):
    "It is the training that half of the batch size would have been"
    little(16, error=FULL['mps'])
    one,two = [compare(few, ['cnn'], epochs=1, seeds=1, bs=bs, verbose=False, device='cpu').runs[0] for bs in (32, 16)]
    assert torch.equal(weights(one.learn), weights(two.learn)) and (one.halved, two.halved) == (32, None)

def test_halved_in_one_of_its_trainings(few, little):
    little(16)
    step = ImageLearner._do_one_batch
    with pytest.MonkeyPatch.context() as m:
        def sometimes(self): return (step if any(getattr(o, 'seed', 0) == 1 for o in self.cbs) else Learner._do_one_batch)(self)
        m.setattr(ImageLearner, '_do_one_batch', sometimes)
        c = compare(few, ['cnn'], epochs=1, seeds=2, bs=32, verbose=False, device='cpu')
    assert [o.halved for o in c.runs] == [None, 32] and 'not in all its trainings' in c.footnotes[0] and len(c.footnotes) == 1

def test_halved_and_broken_off(few, little, tmp_path, capsys, monkeypatch):
    "Killed after that, it goes on in the smaller batches, from its checkpoint"
    little(16)
    monkeypatch.setattr('cnnfast.study.pipeline.Checkpoint', lambda path, resume, seconds: Checkpoint(path, resume))
    monkeypatch.setattr('cnnfast.study.pipeline.write_report', lambda *_, **kwargs: None)
    class _Stop(Callback):
        order = 2000
        def after_epoch(self):
            if self.epoch == 1 and self.learn.epoch_log.training_now: raise KeyboardInterrupt
    def run(name, **kwargs): return compare(few, ['cnn'], epochs=3, seeds=1, bs=32, out=tmp_path/name, device='cpu', **kwargs)
    plain = pipeline.run_recipe
    def stopped(*args): return plain(*args[:5], [*args[5], _Stop()], *args[6:])
    with monkeypatch.context() as m:
        m.setattr(pipeline, 'run_recipe', stopped)
        with pytest.raises(KeyboardInterrupt): run('killed')
    assert [o.name for o in (tmp_path/'killed'/'cnn').iterdir()] == ['.seed-0-halved.safetensors']
    capsys.readouterr()
    resumed = run('killed', resume=True)
    assert '[1/1] cnn, seed 0: no memory for batches of 32: it goes on in batches of 16' in capsys.readouterr().out
    whole = run('whole')
    assert torch.equal(weights(resumed.runs[0].learn), weights(whole.runs[0].learn)) and len(resumed.runs[0].history) == 3

def test_not_halved_twice(few, little, tmp_path):
    little(8)
    with pytest.raises(MemoryError, match='^cnn: no memory left on cpu for batches of 16 either, half of 32: give a smaller batch size'):
        compare(few, ['cnn'], epochs=1, seeds=1, bs=32, out=tmp_path/'out', device='cpu')
    assert not list((tmp_path/'out').rglob('*')) if (tmp_path/'out').exists() else True
    args = ('--models', 'cnn', '--epochs', 1, '--seeds', 1, '--bs', 32, '--device', 'cpu')
    res = cnnfast_here('run', 'digits', *args, '--out', tmp_path/'own')
    fails_with(res, 'cnn: no memory left on cpu for batches of 16 either')
    little(0)
    with pytest.raises(MemoryError, match='for a batch of 1 pictures of 8×8 pixels: try smaller pictures'):
        compare(few, ['cnn'], epochs=1, seeds=1, bs=1, device='cpu', verbose=False)

def test_another_error_is_not_halved(few, little):
    little(16, error=RuntimeError('shapes differ'))
    with pytest.raises(RuntimeError, match='shapes differ'): compare(few, ['cnn'], epochs=1, seeds=1, bs=32, device='cpu', verbose=False)

def test_full_while_its_speed_is_measured(few, monkeypatch):
    "An error that is no batch's is met in the same way, and of other recipes too"
    from cnnfast.study import run
    speed,seen = run.inference_speed,[]
    def limited(learn, **kwargs):
        seen.append(learn.dls.valid.bs)
        if learn.dls.valid.bs > 32: raise FULL['cuda']
        return speed(learn, **kwargs)
    monkeypatch.setattr(run, 'inference_speed', limited)
    c = compare(few, {'own':Recipe('cnn', epochs=1, bs=32)}, seeds=1, device='cpu', verbose=False)
    assert seen == [64, 32] and c.runs[0].halved == 32
