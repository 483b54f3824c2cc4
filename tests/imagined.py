"""A device that is not there, on which everything runs all the same: tensors of the CPU that say they lie elsewhere.

`Imagined('mps')` is a context. In it `torch.device('mps')` can be used as on a machine that has one: what is sent there says that it
is there, and what is computed from it, too. Numbers are the CPU's. It refuses what the real one refuses:
- a tensor there beside one of the CPU (numbers alone may meet), and a look at it by NumPy without `.cpu()`;
- an operation that PyTorch has not for this kind of device. The list is PyTorch's own, of the version that is installed:
  `native_functions.yaml`, which comes with it in the package `torchgen` and says for each operation who has it;
- for a device without double precision (a Mac's GPU has none, some of Intel's neither), any tensor of it there;
- for a Mac's GPU, batch norm and convolutions of what does not lie in PyTorch's default order: up to PyTorch 2.13 these are wrong there
  (pytorch issues 175189 and 192212); and average pooling to a size that does not divide the map (issue 143864).

What it cannot know is whether the numbers of a real one are right."""
import functools, re
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock
import torch, torchgen, yaml
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

@functools.cache
def _operations():
    "What PyTorch says of its operations: {name: entry}"
    path = Path(torchgen.__file__).parent/'packaged'/'ATen'/'native'/'native_functions.yaml'
    with open(path) as f: return {o['func'].split('(')[0]:o for o in yaml.load(f, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))}

@functools.cache
def known_to(name, kind):
    "Has PyTorch the operation `name` for devices of `kind` ('MPS', 'XPU', 'CUDA', …), or is it made of others?"
    if (o := _operations().get(name)) is None: return True # made by torchgen from another, like those with `out`
    if 'structured_delegate' in o: return known_to(o['structured_delegate'], kind)
    keys = {k.strip() for ks in o.get('dispatch', {}) for k in ks.split(',')}
    return not keys or kind in keys or any(k.startswith('Composite') for k in keys)

def has_list(kind):
    "Does PyTorch's list say what devices of `kind` have? (Of Intel's GPUs it was kept elsewhere before PyTorch 2.12 or so)"
    return sum(kind in re.split(r'\W+', ' '.join(o.get('dispatch', {}))) for o in _operations().values()) > 300

# What the CPU has under a name of its own, and others under another: PyTorch chooses by device before it dispatches
_OWN = ('mkldnn', '_for_cpu', '_mkldnn', 'mkl_', 'quantized', 'fbgemm')
_FACTORIES = {'tensor', 'as_tensor', 'zeros', 'ones', 'empty', 'full', 'arange', 'linspace', 'rand', 'randn', 'randint', 'randperm', 'eye',
              'from_numpy', 'scalar_tensor', 'empty_strided', 'zeros_like', 'ones_like', 'empty_like', 'full_like', 'rand_like',
              'randn_like',
              'new_zeros', 'new_ones', 'new_empty', 'new_full', 'new_tensor', 'logspace', 'empty_permuted', 'randint_like'}

class _Crossing(torch.autograd.Function):
    "A copy on the other side; its gradient comes back"
    @staticmethod
    def forward(ctx, x, world, goes):
        ctx.world,ctx.goes = world,goes
        out = x.clone()
        if goes: return world.sent(out)
        world.storages.known.pop(out.untyped_storage()._cdata, None)
        return out
    @staticmethod
    def backward(ctx, g): return _Crossing.apply(g, ctx.world, not ctx.goes),None,None

def _channels_last(shape, strides):
    "Does PyTorch take this for channels-last order? (`is_channels_last_strides_2d`)"
    least = 0
    if strides[1] == 0: return False
    for d in (1, 3, 2, 0):
        if shape[d] == 0 or strides[d] < least or (d == 0 and least == strides[1]): return False
        least = strides[d]*max(1, shape[d])
    return True

class Refused(RuntimeError):
    "What the imagined device does not do"

class _Storages:
    "Which memory lies on the device; weak references, so that an address is not taken for what was there before"
    def __init__(self): self.known = {}
    def add(self, x):
        s = x.untyped_storage()
        self.known[s._cdata] = StorageWeakRef(s)
        if len(self.known) % 5000 == 0: self.known = {k:v for k,v in self.known.items() if not v.expired()}
    def __contains__(self, x):
        ref = self.known.get(x.untyped_storage()._cdata)
        return ref is not None and not ref.expired()

class _Dispatch(TorchDispatchMode):
    def __init__(self, world): super().__init__(); self.world = world
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        w,name = self.world,func._schema.name.removeprefix('aten::')
        tensors = [o for o in tree_leaves((args, kwargs)) if isinstance(o, torch.Tensor)]
        there = [o for o in tensors if o in w.storages]
        target = kwargs.get('device')
        if kwargs.get('pin_memory'): kwargs['pin_memory'] = w.pins(name)
        if target is not None and torch.device(target).type == w.kind: kwargs['device'],asked = torch.device('cpu'),True
        else: asked = False
        if there and name not in ('copy_', '_to_copy', 'set_') and not asked: w.check_mixed(name, args, kwargs, tensors)
        out = func(*args, **kwargs)
        is_there = asked or bool(there)
        if name == '_to_copy' and target is not None: is_there = asked
        if name == 'copy_': is_there = args[0] in w.storages
        if is_there:
            for o in tree_leaves(out):
                if isinstance(o, torch.Tensor): w.storages.add(o)
            w.check(name, func, args, tensors, out)
        return out

class _Functions(TorchFunctionMode):
    "What Python asks of tensors: where they are, and to go elsewhere"
    def __init__(self, world): super().__init__(); self.world = world
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs,w = dict(kwargs or {}),self.world
        x = args[0] if args and isinstance(args[0], torch.Tensor) else None
        name = getattr(func, '__name__', '')
        if x is not None and x in w.storages:
            if func == torch.Tensor.device.__get__: return w.device
            if func == torch.Tensor.is_cpu.__get__: return False
            if name in ('numpy', '__array__'): raise TypeError(f"can't convert a tensor of {w.device} to numpy. Use Tensor.cpu() first")
        if name == 'to' or name == 'cpu': return w.moved(func, x, args, kwargs)
        if name in _FACTORIES:
            target = kwargs.get('device')
            if target is None and name in ('new_tensor',) and x in w.storages: target = w.device
            if target is not None and torch.device(target).type == w.kind:
                kwargs['device'] = torch.device('cpu')
                return w.sent(func(*args, **kwargs))
        return func(*args, **kwargs)

class Imagined:
    "A context in which there is one device of `kind` ('mps', 'xpu'); `used` counts its operations"
    def __init__(self, kind, double=False):
        self.kind,self.double,self.device,self.storages,self.used = kind,double,torch.device(kind, 0),_Storages(),Counter()

    def has(self, x): return x in self.storages

    def pins(self, name):
        if self.kind == 'mps': raise Refused(f'{name}: up to PyTorch 2.13 what is pinned would be of the GPU') # pytorch issue 181374
        return False # there is no driver to ask

    def check_mixed(self, name, args, kwargs, tensors):
        here = [o for o in tensors if o not in self.storages and o.ndim]
        if name in ('index', 'index_put_', 'index_put', '_index_put_impl_'): # indices may come from the CPU
            here = [o for o in (args[0], *args[2:3]) if isinstance(o, torch.Tensor) and o not in self.storages and o.ndim]
        if here: raise Refused(f'{name}: Expected all tensors to be on the same device, but found {self.device} and cpu')

    def check(self, name, func, args, tensors, out):
        self.used[name] += 1
        every = [*tensors, *(o for o in tree_leaves(out) if isinstance(o, torch.Tensor))]
        if not self.double and any(o.dtype in (torch.float64, torch.complex128) and o in self.storages and o.ndim for o in every):
            raise Refused(f'{name}: Cannot convert a {self.kind.upper()} Tensor to float64')
        full = func._schema.name.removeprefix('aten::') + (f'.{func._schema.overload_name}' if func._schema.overload_name else '')
        if not any(o in name for o in _OWN) and not known_to(full, self.kind.upper()):
            raise NotImplementedError(f"The operator 'aten::{full}' is not currently implemented for the {self.kind.upper()} device.")
        if self.kind == 'mps': self._check_mps(name, args)

    def _check_mps(self, name, args):
        maps = [o for o in args[:3] if isinstance(o, torch.Tensor) and o.ndim == 4]
        if 'batch_norm' in name or 'convolution' in name:
            if odd := [o.stride() for o in maps if _channels_last(o.shape, o.stride())]:
                raise Refused(f'{name}: of what lies in channels-last order: {odd[0]}')
        if name == 'convolution' and not args[1].is_contiguous():
            raise Refused(f'{name}: with filters that are not contiguous: {args[1].stride()}')
        if 'adaptive_avg_pool2d' in name and 'backward' not in name and any(a % b for a,b in zip(args[0].shape[-2:], args[1])):
            raise Refused('Adaptive pool MPS: input sizes must be divisible by output sizes')

    def sent(self, x):
        self.storages.add(x)
        if not self.double and x.dtype == torch.float64: raise Refused(f'Cannot convert a {self.kind.upper()} Tensor to float64')
        return x

    def moved(self, func, x, args, kwargs):
        "`x.to(…)` or `x.cpu()`"
        if func.__name__ == 'cpu': args = (x, torch.device('cpu'))
        args,copy = list(args[1:]),kwargs.pop('copy', False)
        if args and isinstance(args[0], torch.Tensor): # to where it is, and as it is
            args = [self.device if args[0] in self.storages else torch.device('cpu'), args[0].dtype, *args[1:]]
        target,dtype,_,layout = torch._C._nn._parse_to(*args, **kwargs)
        if target is not None and target.type == 'meta': return torch.Tensor.to(x, *args, **kwargs)
        was = x in self.storages
        goes = was if target is None else target.type == self.kind
        if not goes and target is not None and target.type != 'cpu': raise RuntimeError(f'{target} is not there')
        out = torch.Tensor.to(x, dtype=dtype or x.dtype, copy=copy, memory_format=torch.preserve_format if layout is None else layout)
        if goes == was: return self.sent(out) if goes and out is not x else out
        return _Crossing.apply(out, self, goes)

    def __enter__(self):
        self.stack = ExitStack()
        module = torch.get_device_module(self.kind)
        state = [torch.zeros(1, dtype=torch.uint8)]
        nothing = dict(empty_cache=lambda: None, synchronize=lambda *_: None, current_allocated_memory=lambda: 0,
                       manual_seed_all=lambda *_: None, manual_seed=lambda *_: None,
                       recommended_max_memory=lambda: 2**34, driver_allocated_memory=lambda: 0,
                       mem_get_info=lambda *_: (2**34, 2**34), reset_peak_memory_stats=lambda *_: None, max_memory_allocated=lambda *_: 0,
                       get_device_name=lambda *_: f'an imagined {self.kind}', is_bf16_supported=lambda **_: True,
                       get_rng_state=lambda *_: state[0], set_rng_state=lambda *_: None, get_rng_state_all=lambda: state,
                       set_rng_state_all=lambda *_: None)
        for k,f in nothing.items():
            if hasattr(module, k): self.stack.enter_context(mock.patch.object(module, k, f))
        for k,f in dict(current_accelerator=lambda **_: self.device, device_count=lambda: 1, synchronize=lambda *_: None).items():
            self.stack.enter_context(mock.patch.object(torch.accelerator, k, f))
        load,generator = torch.load,torch.Generator
        self.stack.enter_context(mock.patch('torch.load', lambda f, map_location=None, **kw: load(f, map_location='cpu', **kw)))
        self.stack.enter_context(mock.patch('torch.Generator', lambda device='cpu': generator('cpu')))
        self.stack.enter_context(_Dispatch(self))
        self.stack.enter_context(_Functions(self))
        return self
    def __exit__(self, *args): return self.stack.__exit__(*args)
