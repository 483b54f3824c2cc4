"""Pictures per second: cnnfast's loader in memory, and fastai's own over the same files with the same augmentation.

    python benchmarks/loading.py --path cifar10.tgz

Both loaders read CIFAR-10, shift, mirror and normalise the training pictures, and give batches of 512. Neither trains anything.
They run in turn, `--rounds` times; the median counts. Decoding and the next start are timed as well.
"""
import argparse, os, platform, statistics, tempfile, time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--path', help='CIFAR-10 on disk: a folder or an archive; by default fastai\'s copy')
parser.add_argument('--bs', type=int, default=512, help='batch size')
parser.add_argument('--rounds', type=int, default=5, help='how often each loader runs')
parser.add_argument('--fastai-pictures', type=int, default=10_000, help='pictures that fastai\'s loader reads in each round')
args = parser.parse_args()

home = tempfile.TemporaryDirectory()
os.environ['CNNFAST_HOME'] = home.name
from fastai.vision.all import *
from cnnfast.datasets import *
from cnnfast.loading import *

def pictures_per_second(dl, n=math.inf):
    "The speed of `dl` over its first `n` pictures"
    seen,start = 0,time.perf_counter()
    for xb,_ in dl:
        seen += len(xb)
        if seen >= n: break
    return seen/(time.perf_counter()-start)

def seconds(f):
    start = time.perf_counter()
    res = f()
    return res,time.perf_counter()-start

print(f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}, {default_device()}')
data,unpacking = seconds(lambda: cifar10(args.path))
_,decoding = seconds(data.decoded)
(ours,start) = seconds(lambda: (dls := cifar10(args.path).dataloaders(bs=args.bs), dls.one_batch())[0])
print(f'opening, unpacked first where it is an archive: {unpacking:.1f} s; decoding {len(data.items):,} pictures once: {decoding:.1f} s; next start, to the first batch: {start:.2f} s')

def fastais(num_workers):
    "The training loader that a fastai user would build: `ImageBlock`, files opened one by one"
    tfms = [*data.augmentations(), Normalize.from_stats(*channel_stats(data.decoded()[1][data.splits['train']], data.size**2))]
    block = DataBlock((ImageBlock, CategoryBlock), get_y=parent_label, splitter=IndexSplitter(data.splits['valid']), batch_tfms=tfms)
    return block.dataloaders(list(data.items), bs=args.bs, num_workers=num_workers).train

rates = {'MemoryDL':[], 'fastai, 2 workers':[], 'fastai, no workers':[]}
lazy = {w:fastais(w) for w in (2, 0)}
pictures_per_second(ours.train)
for _ in range(args.rounds):
    rates['MemoryDL'].append(pictures_per_second(ours.train))
    rates['fastai, 2 workers'].append(pictures_per_second(lazy[2], args.fastai_pictures))
    rates['fastai, no workers'].append(pictures_per_second(lazy[0], args.fastai_pictures))
for k,v in rates.items(): print(f'{k:20} {statistics.median(v):10,.0f} pictures/s   ({min(v):,.0f} to {max(v):,.0f})')
best = max(statistics.median(rates[k]) for k in rates if k != 'MemoryDL')
print(f'ratio to the faster of fastai\'s: {statistics.median(rates["MemoryDL"])/best:.1f}')
home.cleanup()
