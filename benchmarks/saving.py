"""What saving and predicting cost: `predict` beside its parts, its memory, and a checkpoint beside an epoch.

    python benchmarks/saving.py --cifar cifar10.tgz
"""
import argparse, os, platform, resource, subprocess, sys, tempfile, warnings
warnings.filterwarnings('ignore')
from cnnfast import *
from cnnfast.data.pictures import FilePaths
from cnnfast.data.store import decode_pictures

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--cifar', help='CIFAR-10 on disk: a folder or an archive; by default downloaded')
parser.add_argument('--rounds', type=int, default=3)
parser.add_argument('--memory', nargs=2, help=argparse.SUPPRESS)
args = parser.parse_args()

def timed(f):
    start = time.perf_counter()
    res = f()
    return time.perf_counter()-start,res

def peak_mb(model, n):
    "Peak memory of a process that classifies `n` files, and what it had before"
    return map(float, subprocess.run([sys.executable, *sys.argv, '--memory', model, str(n)],
                                     capture_output=True, text=True, check=True).stdout.split())

data = cifar10(args.cifar)
files = list(map(str, data.items))
test = [files[i] for i in data.splits['test']]
if args.memory:
    c = load_model(args.memory[0], 'cpu')
    c.predict(files[:2000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10
    c.predict(files[:int(args.memory[1])])
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10)
    sys.exit()

print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}', flush=True)
with tempfile.TemporaryDirectory() as tmp:
    for model in ('cnn', 'fast_cnn'):
        learn = scratch_learner(data.dataloaders(bs=500, device='cpu'), model, seed=0)
        folder = save_model(learn, f'{tmp}/{model}')
        c,parts = load_model(folder, 'cpu'),[]
        decode_pictures(FilePaths(test), c.opener, parts.append) # the disk's cache is warm for all
        pics = np.concatenate(parts)
        shares = []
        for _ in range(args.rounds):
            loader,_ = timed(lambda: decode_pictures(FilePaths(test), c.opener, noop))
            net,_ = timed(lambda: list(c.probabilities(pics)))
            both,_ = timed(lambda: c.predict(test))
            print(f'{model}: {len(test):,} pictures: decoding alone {len(test)/loader:,.0f}/s, the model alone {len(test)/net:,.0f}/s, '
                  f'one after the other {len(test)/(loader+net):,.0f}/s; '
                  f'predict {len(test)/both:,.0f}/s, {(loader+net)/both:.2f} of it', flush=True)
            shares.append((loader+net)/both)
        print(f'{model}: median {np.median(shares):.2f}', flush=True)
    for n in (10_000, 60_000):
        print('{:,} files: peak memory {:,.0f} MB before, {:,.0f} MB after'.format(n, *peak_mb(f'{tmp}/cnn', n)), flush=True)

    checkpoint = Checkpoint(f'{tmp}/c.safetensors')
    saves = []
    save = checkpoint.save
    checkpoint.save = lambda epochs: saves.append(timed(lambda: save(epochs))[0])
    learn = scratch_learner(data.dataloaders(bs=500), 'fast_cnn', seed=0, cbs=checkpoint)
    with learn.no_bar(), learn.no_logging(): epoch,_ = timed(lambda: learn.fit(1))
    print(f'an epoch of fast_cnn on CIFAR-10 {epoch:.1f} s, a checkpoint {max(saves):.3f} s '
          f'({Path(checkpoint.path).stat().st_size/1e6:.1f} MB): {max(saves)/epoch:.2%}', flush=True)
