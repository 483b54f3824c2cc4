"""One training by one process of one thread, and by two that share it: seconds and weights; and what two threads can give here at most

    python benchmarks/processes.py --cifar cifar10.tgz [--models cnn,fast_cnn] [--bs 500] [--rounds 3]

The share that two processes take of the seconds of one is 0.5 where nothing is lost. Two threads of one core, or two cores on one memory,
cannot give that: so two processes that know nothing of each other make half of the steps each, at the same time, too. `apart` is the
largest difference between weights, after a training without chance (no augmentation, no dropout), in single precision by SGD.
"""
import argparse, os, subprocess, sys, tempfile
from pathlib import Path
from statistics import median

TRAIN = '''
import sys, time
from cnnfast import *
torch.set_num_threads(1)
path,model,bs,epochs,out = sys.argv[1:]
data = cifar10(path).subset(per_class=200).subset(per_class=20, splits=('valid', 'test'))
def learner(**kwargs): return scratch_learner(data.dataloaders(bs=int(bs), augment=not kwargs), model, seed=0, **kwargs)
def train(learn, n):
    with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(): learn.fit_linear(n)
learn = learner()
train(learn, 1)
print('ready', flush=True)
sys.stdin.readline()
start = time.perf_counter()
train(learn, int(epochs))
if rank_distrib() == 0: print('seconds', time.perf_counter()-start, flush=True)
learn = learner(opt_func='sgd', lr=0.01, **(dict(dropout=0.) if model == 'cnn' else dict(progressive=False)))
train(learn, 2)
if rank_distrib() == 0: torch.save(learn.model.state_dict(), out)
'''

def run(commands, env):
    "Seconds that each of the commands, started together, reports"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    ps = [subprocess.Popen(c, **pipes) for c in commands]
    for p in ps:
        while 'ready' not in p.stdout.readline(): pass
    for p in ps: p.stdin.write('\n'*2); p.stdin.close()
    said = [p.stdout.read() for p in ps]
    for p in ps: p.wait()
    return [float(o.split('seconds')[1].split()[0]) for o in said]

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--cifar', required=True); p.add_argument('--models', default='cnn,fast_cnn')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--bs', type=int, default=500)
    args = p.parse_args()
    import torch
    for model in args.models.split(','): measure(model, args, torch)

def measure(model, args, torch):
    epochs = 12 if model == 'cnn' else 2
    env = {**os.environ, 'OMP_NUM_THREADS':'1', 'ACCELERATE_USE_CPU':'true', 'PYTHONWARNINGS':'ignore'}
    with tempfile.TemporaryDirectory() as tmp:
        script = Path(tmp)/'train.py'
        script.write_text(TRAIN)
        def command(name, bs, launcher=()):
            return [sys.executable, *launcher, script, args.cifar, model, str(bs), str(epochs), f'{tmp}/{name}']
        torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
        one,two,half = [],[],[]
        for i in range(args.rounds):
            one += run([command(f'one-{i}', args.bs)], env)
            two += run([command(f'two-{i}', args.bs, torchrun)], env)
            half.append(max(run([command(f'{o}-{i}', args.bs//2) for o in 'ab'], env))/2) # who make twice as many steps of half the size
            print(f'{model}: one {one[-1]:.2f} s, two that share {two[-1]:.2f} s ({two[-1]/one[-1]:.2f}), '
                  f'two strangers with half each {half[-1]:.2f} s ({half[-1]/one[-1]:.2f})', flush=True)
        a,b = [torch.load(f'{tmp}/{o}-0', weights_only=True) for o in ('one', 'two')]
        apart = max((a[k].double()-b[k].double()).abs().max().item() for k in a)
    def share(each): return f'{median(t/o for t,o in zip(each, one)):.2f}'
    print(f'{model}: two processes take {share(two)} of the time of one; two strangers with half of the work each {share(half)}; '
          f'weights {apart:.1e} apart')


if __name__ == '__main__': main()
