"""What an ensemble is worth: every way to combine models beside its members, and what a submission from five saved models costs.

    cnnfast run cifar10 --path cifar10.tgz --models fast_cnn --epochs 5 --seeds 3
    python benchmarks/ensembling.py --cifar cifar10.tgz --members cnnfast-cifar10/fast_cnn

Differences are in points, with 95% intervals over the test pictures. The submission is of CIFAR-10's 10,000 test
pictures as files, from five members (some of them twice where there are fewer).
"""
import argparse, os, platform, re, subprocess, sys, tempfile, time, warnings
warnings.filterwarnings('ignore')
from cnnfast import *
from cnnfast.saving.folder import SavedModel
from cnnfast.ensembling.members import model_folders

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--cifar', help='CIFAR-10 on disk: a folder or an archive; by default downloaded')
parser.add_argument('--members', nargs='+', required=True, help='folders of models, or folders of several, trained on CIFAR-10')
parser.add_argument('--tta', action='store_true', help='measure several views of each picture, too: six times the forward passes')
parser.add_argument('--limit', type=int, default=10_000, help='pictures of the submission; by default %(default)s')
parser.add_argument('--memory', nargs='+', help=argparse.SUPPRESS)
args = parser.parse_args()

data = cifar10(args.cifar)
files = [data.items[int(i)] for i in data.splits['test'][:args.limit]]

def submit(members, folder):
    "Seconds of a submission, those of the forward passes in it, and peak memory in MB"
    forward,outputs = 0.,SavedModel.outputs
    def timed(self, *args):
        nonlocal forward
        it = outputs(self, *args)
        while True:
            start = time.perf_counter()
            o = next(it, None)
            forward += time.perf_counter()-start
            if o is None: return
            yield o
    SavedModel.outputs = timed
    pictures = Path(folder)/'pictures'
    start = time.perf_counter()
    submission(ensemble(members, device='cpu'), pictures, Path(folder)/f'{len(members)}-{os.getpid()}.csv')
    # in KB (Linux); `ru_maxrss` would begin with the size of the process that started this one
    peak = int(re.search(r'VmHWM:\s+(\d+)', Path('/proc/self/status').read_text())[1])
    return time.perf_counter()-start,forward,peak/2**10

if args.memory:
    folder,*members = args.memory
    print(*submit(members, folder))
    sys.exit()

def cost(folder, *members):
    "`submit` in a process of its own"
    res = subprocess.run([sys.executable, *sys.argv, '--memory', str(folder), *map(str, members)], capture_output=True, text=True)
    if res.returncode: sys.exit(res.stderr)
    return tuple(map(float, res.stdout.split()[-3:]))

def interval(d): return f'{100*d.difference:+.2f} ({100*d.low:+.2f} to {100*d.high:+.2f})'

print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}', flush=True)
ens = ensemble(args.members, dls=data.dataloaders(bs=500))
print(f'{ens}; {len(ens.targs("valid")):,} pictures to fit on, {len(ens.targs("test")):,} to test on', flush=True)
print(ens.show_table().to_string(), flush=True)
single,mean,n = np.stack([o.preds for o in ens.evaluations().values()]),ens.evaluate(),len(ens.classes)
print(f'mean of the members: {(single == mean.targs).mean():.2%}', flush=True)

def beside(name, ev, seconds):
    over = dict(mean=mean.preds, member=single) if (ev.preds != mean.preds).any() else dict(member=single)
    over = [f'against the {k} {interval(paired_difference(ev.targs, ev.preds, o, n).loc["accuracy"])}' for k,o in over.items()]
    a = ev.intervals(n_resamples=1).loc['accuracy']
    print(f'{name:10} {a.value:.2%} ({a.low:.2%} to {a.high:.2%}), calibration error {ev.ece():.3f}; '
          f'{", ".join(over)}; fitted in {seconds:.1f} s', flush=True)

for how in COMBINATIONS:
    start = time.perf_counter()
    e = ens.combine(how).fit()
    seconds = time.perf_counter()-start
    beside(how, e.evaluate(), seconds)
    if e.fitted:
        print(f'{"":10} {dict(zip(e.names, e.fitted["weights"])) if how == "weights" else "share of stacking %.3f" % e.fitted["share"]}',
              flush=True)
if args.tta:
    views = ensemble(args.members, dls=ens.dls, tta=True)
    beside('mean, tta', views.evaluate(), 0)
    for name,ev in views.evaluations().items():
        print(f'{name}, tta: {ev.metrics["accuracy"]:.2%} instead of {ens.evaluations()[name].metrics["accuracy"]:.2%}', flush=True)

found = [p for o in args.members for p in model_folders(o)]
five = [found[i % len(found)] for i in range(5)]
with tempfile.TemporaryDirectory() as tmp:
    (Path(tmp)/'pictures').mkdir()
    for i,o in enumerate(files): (Path(tmp)/'pictures'/f'{i}.jpg').write_bytes(o.read_bytes())
    alone = {o:cost(tmp, o) for o in dict.fromkeys(five)}
    total,forward,peak = cost(tmp, *five)
print(f'submission of {len(files):,} pictures from 5 models: {total:.1f} s, of it {forward:.1f} s forward, {total-forward:.1f} s the rest',
      flush=True)
print(f'peak memory {peak:,.0f} MB; of the largest member alone {max(o[2] for o in alone.values()):,.0f} MB; '
      f'predictions of 5 members {5*len(files)*n*4/2**20:.1f} MB', flush=True)
