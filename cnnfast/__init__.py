"""Image classification with fastai: load fast, train, compare honestly, report.

`from cnnfast import *` gives every public name of the package and, with them, those of `fastai.vision.all`.
`import cnnfast` alone loads nothing: names resolve on first use.
"""
__version__ = "0.1.0"

import os, sys
if 'torch' not in sys.modules: # threads that spin while they wait would slow down a second training many-fold
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

_topics = { # the map: a topic imports only from those above it, a module only from those before it in its topic
    'core': ('text', 'disk', 'plotting', 'devices', 'code', 'processes', 'rows'),
    'data': ('download', 'pictures', 'splits', 'dataset', 'selection', 'folders', 'standard_sets', 'store', 'augmentation', 'photographs',
             'loading', 'inspection', 'distribution', 'examples', 'sharing', 'beyond_memory'),
    'models': ('scratch', 'weights', 'shipped', 'pretrained'),
    'training': ('optimizers', 'callbacks', 'states', 'checkpoints', 'learner', 'folding', 'transfer', 'probe', 'distributed'),
    'evaluation': ('intervals', 'metrics', 'curves', 'mistakes'),
    'interpretation': ('activations', 'filters', 'maps', 'embeddings', 'architecture'),
    'saving': ('card', 'hub', 'folder', 'prediction', 'export', 'page', 'uploads', 'serve'),
    'ensembling': ('combining', 'members', 'ensemble', 'contributions', 'snapshots', 'submission'),
    'autoencoder': ('similarity', 'unet', 'reconstruction', 'latents'),
    'study': ('recipe', 'run', 'comparison', 'conclusion', 'report', 'slides', 'folds', 'judging', 'pipeline', 'budget', 'hand_in'),
    'cli': ('options', 'main')}
_modules = tuple(f'{topic}.{name}' for topic, names in _topics.items() for name in names)

def _load():
    "Every public name of `fastai.vision.all` and of the modules above, but for the command"
    from importlib import import_module
    names = dict(vars(import_module('fastai.vision.all')))
    for m in _modules:
        if m.startswith('cli.'): continue
        mod = import_module(f'{__name__}.{m}')
        names.update({k: getattr(mod, k) for k in mod.__all__})
    names = {k: v for k, v in names.items() if not k.startswith('_') and k not in _topics}
    globals().update(names, __all__=list(names))

def __getattr__(name):
    missing = AttributeError(f'module {__name__!r} has no attribute {name!r}')
    if (name.startswith('_') and name != '__all__') or name in _topics: raise missing
    if '__all__' not in globals(): _load()
    try: return globals()[name]
    except KeyError: raise missing from None

def __dir__():
    if '__all__' not in globals(): _load()
    return sorted(globals())
