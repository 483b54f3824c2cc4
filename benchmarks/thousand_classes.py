"""What predictions over a thousand classes take: all figures, the report, and ensembles, in seconds and peak memory.

    python benchmarks/thousand_classes.py [--classes 1000] [--pictures 50000] [--rounds 3]

The predictions are made up: right in about three of four pictures, mistakes among classes that stand beside each other, the
rest of the probability spread over all. Each part runs in a process of its own, whose peak memory includes Python, torch and fastai.
`report` is that of two small networks, trained for a moment, whose predictions on test are replaced by those made up.
`mean`, `weights` and `stack` combine two members, fitted, where they are fitted, on as many pictures as they combine; the accuracy is
that of a fit to other pictures, for stacking. `computing` adds up what all threads computed, which other processes disturb less.
"""
import argparse, json, os, platform, resource, statistics, subprocess, sys, tempfile, time
from contextlib import contextmanager
from pathlib import Path
import numpy as np

PARTS = ['figures', 'report', 'mean', 'weights', 'stack']
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--classes', type=int, default=1000)
parser.add_argument('--pictures', type=int, default=50_000, help='test pictures; as many for validation where an ensemble is fitted')
parser.add_argument('--rounds', type=int, default=3, help='how often each part is measured')
parser.add_argument('--parts', nargs='+', default=PARTS, choices=PARTS)
parser.add_argument('--steps', action='store_true', help='print what each step takes, too')
parser.add_argument('--folder', type=Path, help='where the predictions and the report are written; by default a temporary folder')
parser.add_argument('--part', help=argparse.SUPPRESS)
args = parser.parse_args()

# Predictions

def predictions(path, seed):
    "Writes probabilities, float32 (pictures, classes), a thousand pictures at a time; the class of a picture is its number modulo classes"
    rng,c = np.random.default_rng(seed),args.classes
    probs = np.lib.format.open_memmap(path, 'w+', np.float32, (args.pictures, c))
    for i in range(0, args.pictures, 1000):
        targs = np.arange(i, min(i+1000, args.pictures)) % c
        z = rng.standard_normal((len(targs), c), dtype=np.float32)*1.5
        rows,near = np.arange(len(targs)),(targs + rng.integers(1, 6, len(targs))) % c
        z[rows,targs] += rng.gamma(4, 2.6, len(targs))
        z[rows,near] += rng.gamma(2, 3.1, len(targs))
        z = np.exp(z - z.max(1, keepdims=True))
        probs[i:i+1000] = z/z.sum(1, keepdims=True)

def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 1024)

def now(): return np.array([time.perf_counter(), time.process_time()])
def since(start): return dict(zip(('seconds', 'computing'), (now()-start).tolist()))

@contextmanager
def step(name):
    start = now()
    yield
    took = '{seconds:6.1f} s, {computing:6.1f} of computing'.format(**since(start))
    if args.steps: print(f'  {name:24} {took}, peak so far {peak_mb():6,.0f} MB', file=sys.stderr)

def vocab(): return [f'class {i:04}' for i in range(args.classes)]
def targets(): return np.arange(args.pictures) % args.classes

# Each in a process of its own

def figures():
    "Seconds for all that an `Evaluation` can say and draw"
    from cnnfast.evaluation import curves # Evaluation.roc, …
    from cnnfast.evaluation.metrics import Evaluation
    from cnnfast.study.report import figure_png
    probs,start = np.load(args.folder/'0.npy'),now()
    with step('checks'): ev = Evaluation(probs, targets(), vocab(), 'model')
    with step('metrics'): ev.metrics; ev.per_class; ev.losses
    with step('intervals'): ev.intervals()
    with step('ROC'): roc = ev.roc()
    with step('precision-recall'): pr = ev.precision_recall()
    with step('calibration'): ev.calibration(); ev.ece()
    with step('temperature'): ev.temperature()
    with step('confused'): ev.confusion(); ev.confusion(True); ev.most_confused()
    with step('order'): ev.class_order()
    for share in (False, True):
        with step('confusion, drawn'): figure_png(ev.plot_confusion, share)
    with step('counts, drawn'): figure_png(ev.plot_counts)
    with step('curves, drawn'): figure_png(roc.plot); figure_png(pr.plot)
    with step('calibration, drawn'): figure_png(ev.plot_calibration)
    return since(start)

def report():
    "Seconds for the report of two models, and its size"
    from cnnfast import ImageData, compare
    from cnnfast.data.pictures import Picture
    from cnnfast.evaluation.metrics import Evaluation
    rng,c = np.random.default_rng(0),args.classes
    n = dict(train=4*c, valid=3*c, test=args.pictures)
    targs = np.concatenate([np.arange(o) % c for o in n.values()])
    pics = np.broadcast_to(rng.integers(0, 256, (c, 1, 8, 8), dtype=np.uint8), (c, 3, 8, 8)).reshape(-1, 8, 8)
    pics = pics[3*targs] // 2 + rng.integers(0, 128, (len(targs), 8, 8), dtype=np.uint8)
    ends = np.cumsum([0, *n.values()])
    splits = {k:np.arange(a, b) for k,a,b in zip(n, ends, ends[1:])}
    data = ImageData('a thousand', [Picture(p, vocab()[t]) for p,t in zip(pics, targs)], targs, splits, vocab(), size=8, n_in=1)
    comparison = compare(data, ['ann', 'cnn'], seeds=1, epochs=2, verbose=False)
    for i,o in enumerate(comparison.runs):
        old = o.evaluation
        o.evaluation = Evaluation(np.load(args.folder/f'{i}.npy'), old.targs, old.vocab, old.name, old.split, old.history)
        o.evaluation.dl = old.dl
    comparison._known.clear()
    start = now()
    path = comparison.report(args.folder/'report.html')
    return {**since(start), 'megabytes':path.stat().st_size/1e6}

def combined(how):
    "Seconds to fit `how` on what two members say, where it is fitted, and to combine it"
    from cnnfast.ensembling.combining import FITTED, combine_probs, fit_combination
    from cnnfast.evaluation.metrics import Evaluation
    logs,fitted = [np.log(np.load(args.folder/f'{i}.npy')) for i in range(2)],None
    start = now()
    if how in FITTED:
        with step('fit'): fitted,apart = fit_combination(how, logs, targets())
    with step('combine'): probs = combine_probs(how, logs, fitted)
    took = since(start)
    return {**took, 'accuracy':Evaluation(apart if how == 'stack' else probs, targets(), vocab()).metrics['accuracy']}

if __name__ == '__main__' and args.part:
    found = dict(figures=figures, report=report)[args.part]() if args.part in ('figures', 'report') else combined(args.part)
    print(json.dumps({**found, 'MB':peak_mb()}))

elif __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        folder = args.folder or Path(folder)
        for i in range(2):
            if not (folder/f'{i}.npy').exists(): predictions(folder/f'{i}.npy', i)
        import torch
        print(f'{args.pictures:,} pictures, {args.classes:,} classes; {platform.machine()}, {os.cpu_count()} cores, '
              f'Python {platform.python_version()}, torch {torch.__version__}')
        env = {**os.environ, 'PYTHONWARNINGS':'ignore', 'CUDA_VISIBLE_DEVICES':''}
        for name in args.parts:
            found = []
            for _ in range(args.rounds):
                out = subprocess.run([sys.executable, *sys.argv, '--folder', str(folder), '--part', name], env=env, check=True, stdout=-1)
                found.append(json.loads(out.stdout.splitlines()[-1]))
            def said(k, form):
                o = [r[k] for r in found]
                return f'{k} {statistics.median(o):{form}}' + (f' ({min(o):{form}} to {max(o):{form}})' if len(o) > 1 else '')
            forms = dict(MB=',.0f', accuracy='.4f')
            print(f'{name:8} ' + ', '.join(said(k, forms.get(k, '.1f')) for k in found[0]), flush=True)
