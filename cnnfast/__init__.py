"""Image classification with fastai: load fast, train, compare honestly, report.

`from cnnfast import *` gives every public name of the package and, with them, those of `fastai.vision.all`.
`import cnnfast` alone loads nothing: names resolve on first use.
"""
__version__ = "0.1.0"

_modules = ('files', 'pictures', 'datasets', 'folders', 'standard', 'augmentation', 'loading', 'inspection', 'backbone', 'models', 'optimizers', 'callbacks', 'weights', 'checkpoints', 'training', 'transfer', 'intervals', 'evaluation', 'curves', 'errors', 'interpretation', 'saving', 'combining', 'ensembling', 'submissions', 'likeness', 'autoencoder', 'latents', 'experiments', 'followup', 'reports', 'slides')

def _load():
    "Every public name of `fastai.vision.all` and of the modules above"
    from importlib import import_module
    names = dict(vars(import_module('fastai.vision.all')))
    for m in _modules:
        mod = import_module(f'{__name__}.{m}')
        names.update({k: getattr(mod, k) for k in mod.__all__})
    names = {k: v for k, v in names.items() if not k.startswith('_') and k not in _modules}
    globals().update(names, __all__=list(names))

def __getattr__(name):
    if (name.startswith('_') and name != '__all__') or name in (*_modules, 'cli'): raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if '__all__' not in globals(): _load()
    try: return globals()[name]
    except KeyError: raise AttributeError(f'module {__name__!r} has no attribute {name!r}') from None

def __dir__():
    if '__all__' not in globals(): _load()
    return sorted(globals())
