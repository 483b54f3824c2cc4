"""A step that does not wait: counted on the CPU, where every number that is asked for can be seen, and forbidden on a GPU.

What needs a GPU is skipped elsewhere."""
from contextlib import ExitStack
from unittest import mock
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from conftest import needs_gpu
from fastai.vision.all import Callback, CancelFitException, MixUp, MixedPrecision, Recorder
from cnnfast.core import devices
from cnnfast.data.dataset import digits
from cnnfast.models.pretrained import create_model
from cnnfast.evaluation.metrics import evaluate
from cnnfast.training.callbacks import CompileModel, LateRecorder, LossDiverged, ProgressiveResizing
from cnnfast.training.checkpoints import Checkpoint
from cnnfast.training.learner import scratch_learner

ASKS = {'_local_scalar_dense', 'nonzero', 'masked_select', 'equal', '_unique2'}

def fit(learn, *args, f='fit', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, f)(*args, **kwargs)
    return learn

def weights(learn): return torch.cat([p.detach().flatten().float().cpu() for p in learn.model.parameters()])

def as_there(model='fast_cnn', **kwargs):
    "A learner on the CPU that does all that one does that keeps a GPU busy"
    dls = digits().dataloaders(bs=64, device='cpu')
    return scratch_learner(dls, model, **{'seed':0, 'progressive':False, 'keep_busy':True, **kwargs})

class Between(Callback):
    "Calls `begin` after the second batch of each training epoch and `end` after its last: whole steps lie between, loading included"
    order = 10_000
    def __init__(self, begin, end): self.begin,self.end = begin,end
    def after_batch(self):
        if not self.training: return
        if self.iter == 1: self.begin()
        if self.iter == self.n_iter-1: self.end()

class Asked(TorchDispatchMode):
    "Notes operations that need a number of the device, but for what was sent to the CPU"
    def __init__(self): super().__init__(); self.seen,self.sent = [],set()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        asks = name in ASKS or (name == 'index' and any(o is not None and o.dtype == torch.bool for o in args[1]))
        if asks and args[0].data_ptr() not in self.sent: self.seen.append(name)
        return func(*args, **(kwargs or {}))

@pytest.mark.parametrize('kwargs', [{}, dict(model='cnn'), dict(model='cnn', opt_func='adam')])
def test_no_step_asks_for_a_number(kwargs, monkeypatch):
    asked = Asked()
    class Noted(devices.Mirror):
        def __init__(self, like):
            super().__init__(like)
            asked.sent.add(self.value.data_ptr())
    monkeypatch.setattr('cnnfast.training.callbacks.Mirror', Noted)
    learn = as_there(**kwargs)
    fit(learn, 2, cbs=Between(asked.__enter__, lambda: asked.__exit__(None, None, None)))
    assert asked.seen == [] and asked.sent

def test_a_count_that_sees():
    "What is counted above is there in fastai's own learner"
    asked = Asked()
    class Asks(Callback):
        def after_loss(self): self.loss.item()
    learn = as_there(cbs=Asks())
    fit(learn, 1, cbs=Between(asked.__enter__, lambda: asked.__exit__(None, None, None)))
    assert asked.seen.count('_local_scalar_dense') >= len(learn.dls.train)-2

@pytest.mark.parametrize('model,exact', [('cnn', 38), ('fast_cnn', 4)]) # rounding grows, by max-pooling that takes another pixel
def test_the_same_training(model, exact):
    "Losses read late, plain tensors and steps taken together: on the same batches the same is learned, but for rounding"
    class Whole(Callback):
        def before_fit(self): self.dls.train.whole = True
    one,two = fit(as_there(model, keep_busy=False, cbs=Whole()), 2),fit(as_there(model), 2)
    assert np.allclose(one.recorder.losses[:exact], two.recorder.losses[:exact], atol=1e-6) and len(two.recorder.losses) == 38
    assert np.allclose(one.history(), two.history(), atol=1e-6 if exact == 38 else 0.05)
    assert (type(one.recorder), type(two.recorder)) == (Recorder, LateRecorder)
    assert two.opt.united is False and two.dls.train.whole is False and two.dls.train._ready is None # as before

def test_diverges_late():
    "On a device whose numbers arrive late, the message names the batch at which it happened"
    class Late(devices.Mirror):
        def __init__(self, like): super().__init__(like); self.waiting = []
        def send(self, x):
            self.waiting.append(x.clone())
            if len(self.waiting) > 5: self.value.copy_(self.waiting[-5])
            return self.value
    class Blow(Callback):
        order = 70
        def before_batch(self):
            if self.training and self.epoch == 1 and self.iter == 3: self.opt.set_hyper('lr', 1e30)
    learn = as_there('cnn', opt_func='sgd', lr=0.05, cbs=Blow())
    with pytest.MonkeyPatch.context() as m:
        m.setattr('cnnfast.training.callbacks.Mirror', Late)
        with pytest.raises(LossDiverged, match='(nan|inf) in epoch 2, batch 5 of 19, at a rate of 1e.30: .*the end of epoch 1'):
            fit(learn, 3)
    assert all(o.isfinite().all() for o in learn.model.state_dict().values())

def test_compiled_for_each_size():
    "All sizes are compiled before the first batch, and leave neither weights nor statistics nor chance changed"
    sizes = []
    def backend(graph, inputs):
        sizes.append(max(o.shape[-1] for o in inputs if o.ndim == 4))
        return graph.forward
    torch._dynamo.reset()
    class First(Callback):
        order = CompileModel.order+1
        def before_batch(self):
            if hasattr(self, 'n'): return
            self.n,self.kept,self.drawn = len(sizes),[o.clone() for o in self.model.state_dict().values()],torch.rand(3)
    def learner(*cbs):
        return scratch_learner(digits().dataloaders(bs=64, device='cpu'), 'fast_cnn', seed=0, progressive=False,
                               cbs=[ProgressiveResizing(multiple=1), *cbs, First()])
    plain,compiled = fit(learner(), 2),fit(learner(CompileModel(backend=backend)), 2)
    assert set(sizes) == {5, 6, 7, 8} and len(sizes) == compiled.first.n == 4
    assert all(torch.equal(a, b) for a,b in zip(plain.first.kept, compiled.first.kept))
    assert torch.equal(plain.first.drawn, compiled.first.drawn)
    assert np.allclose(plain.history(), compiled.history(), atol=1e-3)
    assert compiled.model._compiled_call_impl is None and evaluate(compiled).metrics['accuracy'] > 0.3

def test_what_cannot_be_compiled_is_trained():
    def backend(graph, inputs): raise RuntimeError('no compiler here')
    torch._dynamo.reset()
    learn = scratch_learner(digits().dataloaders(bs=64, device='cpu'), 'cnn', seed=0, cbs=CompileModel(backend=backend))
    with pytest.warns(UserWarning, match='could not be compiled'): fit(learn, 1)
    assert len(learn.history()) == 1

# On a GPU that is imagined: tensors without numbers, which know their device

class Crossings(TorchDispatchMode):
    "Notes operations that bring tensors from one device to another"
    def __init__(self): super().__init__(); self.seen = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        res = func(*args, **(kwargs or {}))
        tensors = [o for o in tree_leaves((args, kwargs, res)) if isinstance(o, torch.Tensor)]
        if len({o.device.type for o in tensors}) > 1: self.seen.append(func.overloadpacket.__name__)
        return res

class Sent:
    "A `Mirror` of a number that nobody knows"
    def __init__(self, like): assert like.device.type == 'cuda' and not like.ndim
    def send(self, x): assert x.device.type == 'cuda' and not x.ndim; return self
    def item(self): return 1.

@pytest.fixture
def imagined():
    "Lets a learner train four batches on a GPU that is not there; no gradient is computed, since autograd asks the driver"
    replaced = {'torch.cuda.is_bf16_supported':lambda *args, **kwargs: True,
                'torch.cuda.amp.common.amp_definitely_not_available':lambda: False,
                'torch.Tensor.as_subclass':lambda self, cls: self, 'torch.nn.Module.to':lambda self, *args, **kwargs: self,
                'torch.Generator':lambda device, own=torch.Generator: own(), # that of a GPU asks the driver, too
                'cnnfast.training.callbacks.Mirror':Sent}
    replaced |= {f'cnnfast.{m}.free_on':lambda device: float('inf') for m in ('training.callbacks', 'data.loading', 'data.store')}
    def f(model, **kwargs):
        learn,crossings = as_there(model, amp=True, **kwargs),Crossings()
        class Four(Callback):
            order = 10_000
            def after_batch(self):
                if self.iter == 1: crossings.__enter__()
                if self.iter == 5: crossings.__exit__(None, None, None); self.learn.seen = self.x; raise CancelFitException
        def backward():
            for p in learn.model.parameters(): p.grad = torch.ones_like(p) if p.requires_grad else None
        with ExitStack() as stack:
            for name,o in replaced.items(): stack.enter_context(mock.patch(name, o))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            with torch.device('cuda'): learn.model = create_model(model, 1, 10, 8)
            learn._backward = backward
            for dl in learn.dls.loaders: dl._device = torch.device('cuda')
            fit(learn, 1, cbs=Four())
        return learn,crossings.seen
    return f

@pytest.mark.parametrize('model,kwargs', [('fast_cnn', {}), ('cnn', {}), ('custom_cnn', {}), ('cnn', dict(opt_func='muon', lr=0.01)),
                                          ('fast_cnn', dict(opt_func='adam', cbs=ProgressiveResizing(multiple=1)))])
def test_nothing_crosses_over(imagined, model, kwargs):
    "Within an epoch no tensor comes from the CPU, none goes there, none meets one of another device, and nobody asks for a number"
    learn,crossed = imagined(model, **kwargs)
    assert crossed == [] and len(learn.recorder.losses) == 6
    x = learn.seen
    assert (x.device.type, x.dtype) == ('cuda', torch.bfloat16) and x.is_contiguous(memory_format=torch.channels_last)

def test_what_is_imagined_would_show(imagined):
    with pytest.raises(DataDependentOutputException): imagined('cnn', keep_busy=False)
    class Fetches(Callback):
        def after_loss(self): self.loss.cpu()
    assert imagined('cnn', cbs=Fetches())[1] == ['_to_copy']*4

# On a GPU

@pytest.fixture
def there():
    "Loaders on the GPU"
    def f(bs=64, **kwargs): return digits().dataloaders(bs=bs, device=torch.device('cuda'), **kwargs)
    return f

@needs_gpu
@pytest.mark.parametrize('kwargs', [{}, dict(model='cnn'), dict(model='cnn', opt_func='adam'), dict(amp=False), dict(patience=3),
                                    dict(cbs=[ProgressiveResizing(multiple=1)])])
def test_no_wait_within_an_epoch(there, kwargs):
    learn = scratch_learner(there(), **{'model':'fast_cnn', 'seed':0, 'keep_busy':True, **kwargs})
    fit(learn, 1)
    mode = torch.cuda.set_sync_debug_mode
    try: fit(learn, 2, f='fit_linear', cbs=Between(lambda: mode('error'), lambda: mode('default')))
    finally: mode('default')
    assert len(learn.history()) == 3 and learn.history().notna().all(axis=None)

@needs_gpu
def test_whole_epochs_are_the_same_pictures(there):
    "Each picture once, as it is or mirrored, in half precision"
    dls = there(augment='none')
    dl,plain = dls.train,dls.train.new(shuffle=False, drop_last=False)
    dl.whole,dl.dtype = True,torch.bfloat16
    assert dl.draws_whole() and not plain.draws_whole()
    x,y = [torch.cat([b[i].float() for b in dl]) for i in (0, 1)]
    px,py = [torch.cat([b[i].float() for b in plain]) for i in (0, 1)]
    at = torch.cdist(x.flatten(1), px.flatten(1)).argmin(1)
    assert x.is_contiguous(memory_format=torch.channels_last) and len(at.unique()) > 0.97*len(at)
    assert (x-px[at]).abs().max() < 0.02 and (y == py[at]).float().mean() > 0.99

@needs_gpu
def test_reproducible(there):
    for keep_busy in (False, True):
        one,two = [fit(scratch_learner(there(), 'fast_cnn', seed=3, keep_busy=keep_busy, reproducible=True), 2) for _ in range(2)]
        assert torch.equal(weights(one), weights(two))
    flags = torch.backends.cudnn.deterministic,torch.backends.cudnn.benchmark
    fit(scratch_learner(there(), 'fast_cnn', seed=3, keep_busy=True), 1)
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == flags

@needs_gpu
def test_together_as_one_by_one(there):
    "Muon and Adam step parameters on the GPU as they do one by one"
    from fastai.vision.all import Optimizer, partial
    def train(single):
        learn = scratch_learner(there(), 'fast_cnn', seed=0, amp=False, keep_busy=True, reproducible=True)
        learn.create_opt()
        if single: learn.opt.step,learn.opt.zero_grad = partial(Optimizer.step, learn.opt),partial(Optimizer.zero_grad, learn.opt)
        return fit(learn, 1)
    one,two = train(True),train(False)
    assert np.allclose(one.history(), two.history(), atol=0.05)

@needs_gpu
@pytest.mark.parametrize('mode', [None, 'reduce-overhead'])
def test_compiled_there(there, mode):
    learn = fit(scratch_learner(there(), 'fast_cnn', seed=0, keep_busy=True, cbs=CompileModel(mode)), 6, f='fit_linear')
    assert learn.history().accuracy.iloc[-1] > 0.9 and evaluate(learn).metrics['accuracy'] > 0.9

@needs_gpu
def test_diverges_there(there):
    learn = scratch_learner(there(), 'cnn', seed=0, opt_func='sgd', lr=1e10, keep_busy=True)
    with pytest.raises(LossDiverged, match='in epoch 1, batch [23] of 19'): fit(learn, 2)
    assert all(o.isfinite().all() for o in learn.model.state_dict().values())

@needs_gpu
def test_all_else_goes_on(there, tmp_path):
    "Mixing, float16 with its scaler, a rate that is looked for, and a run that goes on"
    for kwargs,data in ((dict(cbs=MixUp()), {}), (dict(), dict(mix='cutmix')), (dict(), dict(augment='standard')),
                        (dict(amp=False, cbs=MixedPrecision('fp16')), {})):
        assert fit(scratch_learner(there(**data), 'cnn', seed=0, keep_busy=True, **kwargs), 1).history().notna().all(axis=None)
    learn = scratch_learner(there(), 'fast_cnn', seed=0, keep_busy=True)
    with learn.no_bar(): assert 1e-5 < learn.lr_find(num_it=40, show_plot=False).valley < 10
    class _Stop(Callback):
        order = 2000
        def after_epoch(self):
            if self.epoch == 0: raise KeyboardInterrupt
    def run(*cbs): return scratch_learner(there(), 'fast_cnn', seed=0, keep_busy=True, reproducible=True, cbs=cbs)
    with pytest.raises(KeyboardInterrupt): fit(run(Checkpoint(tmp_path/'c.safetensors', resume=True), _Stop()), 2)
    resumed,whole = fit(run(Checkpoint(tmp_path/'c.safetensors', resume=True)), 2),fit(run(), 2)
    assert torch.allclose(weights(resumed), weights(whole), atol=1e-6)
