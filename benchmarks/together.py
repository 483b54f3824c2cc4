"""Two trainings at once on one CPU, beside one alone: how much longer does each take?

    python benchmarks/together.py --cifar cifar10.tgz [--model fast_cnn] [--rounds 3] [--spin]

Prints the seconds of a training alone, those of two at once, and their ratio, which is 2 where nothing is lost. `--spin` lets waiting
threads spin, as OpenMP does by default.
"""
import argparse, subprocess, sys, time
from statistics import median

TRAIN = '''
import sys, time
from cnnfast import *
data = cifar10(sys.argv[1]).subset(per_class=200).subset(per_class=20, splits=('valid', 'test'))
learn = scratch_learner(data.dataloaders(bs=250), sys.argv[2], seed=0)
def train(n):
    with learn.no_bar(), learn.no_logging(): learn.fit_linear(n)
train(1)
print('ready', flush=True)
sys.stdin.readline()
start = time.perf_counter()
train(int(sys.argv[3]))
print(time.perf_counter()-start, flush=True)
'''

def seconds(n, args):
    "What each of `n` trainings at once takes"
    code = 'import torch' + TRAIN if args.spin else TRAIN # imported first, it is as if cnnfast had set nothing
    command = [sys.executable, '-c', code, args.cifar, args.model, str(args.epochs)]
    ps = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    for p in ps: assert p.stdout.readline() == 'ready\n'
    for p in ps: p.stdin.write('go\n'); p.stdin.flush()
    res = [float(p.stdout.readline()) for p in ps]
    for p in ps: p.wait()
    return res

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--cifar', required=True, help='CIFAR-10 on disk')
    p.add_argument('--model', default='fast_cnn')
    p.add_argument('--epochs', type=int, default=2)
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--spin', action='store_true')
    args = p.parse_args()
    alone,both = [],[]
    for i in range(args.rounds):
        alone += seconds(1, args); both += seconds(2, args)
        print(f'round {i+1}: alone {alone[-1]:.1f} s, two at once {both[-2]:.1f} and {both[-1]:.1f} s', flush=True)
    print(f'{args.model}: alone {median(alone):.1f} s, at once {median(both):.1f} s, ratio {median(both)/median(alone):.2f}')

if __name__ == '__main__': main()
