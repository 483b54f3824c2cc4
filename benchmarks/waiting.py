"""How long a user waits: for the command's help, the imports, the default run, the next start, a check, an evaluation of many classes.

    python benchmarks/waiting.py --cifar cifar10.tgz --tiny tiny-imagenet-200-part-a.tgz tiny-imagenet-200-part-b.tgz

Each line says what it should stay under on two cores, where something was promised. About ten minutes on two cores.
"""
import argparse, os, platform, subprocess, sys, tempfile, time, warnings
from pathlib import Path
from cnnfast import *

def seconds(f, rounds=3):
    "The quickest of a few rounds: the machine may be busy otherwise"
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter()-start)
    return min(times)

def say(what, took, limit=None): print(f'{what}: {took:.2f} s' + (f' (at most {limit:g})' if limit else ''), flush=True)

def command(*args, **kwargs):
    subprocess.run([Path(sys.executable).with_name('cnnfast'), *args], check=True, capture_output=True, **kwargs)

def imported(code): subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True)

def evaluate_many(rng=np.random.default_rng(0)):
    "Every metric and figure of 10,000 predictions of 200 classes"
    probs,targs = rng.dirichlet(np.ones(200), 10_000),rng.integers(0, 200, 10_000)
    ev = Evaluation(probs, targs, [f'class {i:03}' for i in range(200)], 'model')
    ev.metrics; ev.per_class; ev.most_confused(); ev.intervals(n_resamples=2000)
    axes = [ev.plot_confusion(o) for o in (False, True)] + [ev.plot_counts(), ev.roc().plot(), ev.precision_recall().plot()]
    for ax in [*axes, ev.plot_calibration()[0]]: ax.figure.canvas.draw()
    plt.close('all')

def resample(rng=np.random.default_rng(5)):
    "10,000 resamples of 10,000 pictures of 200 classes"
    targs = rng.integers(0, 200, 10_000)
    metric_intervals(targs, np.where(rng.random(10_000) < 0.5, targs, rng.integers(0, 200, 10_000)), 200)

def start_again(data_set, name, limit):
    "Decode a data set, then start with it again, to the first batch"
    with tempfile.TemporaryDirectory() as home:
        os.environ['CNNFAST_HOME'] = home
        say(f'{name}, unpacking and decoding', seconds(lambda: data_set().decoded(), 1))
        say(f'{name}, the next start to the first batch', seconds(lambda: data_set().dataloaders(bs=512).one_batch()), limit)
        if name == 'CIFAR-10': say(f'{name}, check of all pictures, decoded before', seconds(lambda: data_set().check(), 1), 60)

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--cifar', help="CIFAR-10, as an archive or a folder")
    parser.add_argument('--tiny', nargs='+', help='the parts of Tiny ImageNet')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    plt.switch_backend('agg')
    machine = platform.processor() or platform.machine()
    print(f'{machine}, {defaults.cpus} cores, Python {platform.python_version()}, torch {torch.__version__}')
    say('cnnfast --help', seconds(lambda: command('--help')), 1)
    say('from fastai.vision.all import *', seconds(lambda: imported('from fastai.vision.all import *')))
    say('from cnnfast import *', seconds(lambda: imported('from cnnfast import *; scratch_learner')))
    with tempfile.TemporaryDirectory() as d: say('cnnfast run', seconds(lambda: command('run', cwd=d), 1), 120)
    say('evaluation of 10,000 pictures of 200 classes, with its figures', seconds(evaluate_many), 10)
    say('10,000 resamples of them', seconds(resample), 5)
    if args.cifar: start_again(lambda: cifar10(args.cifar), 'CIFAR-10', 1)
    if args.tiny: start_again(lambda: tiny_imagenet(args.tiny), 'Tiny ImageNet', 2)
