"""What transfer is worth: the backbone that comes with cnnfast against models from scratch, with few labelled pictures
and the same seconds of training.

    python benchmarks/transfer.py --cifar cifar10.tgz --tiny tiny-imagenet-200-part-a.tgz tiny-imagenet-200-part-b.tgz

Two tasks: CIFAR-10 with 50 labelled pictures a class, tested on all 10,000 test pictures; and the classes of Tiny ImageNet that
the backbone has never seen, 50 labelled pictures a class, tested on their official validation pictures. Each training gets as many epochs
as fit into the seconds. About 30 minutes on two cores.
"""
import argparse, os, platform, warnings
warnings.filterwarnings('ignore')
from cnnfast import *
from cnnfast.models.pretrained import TINY_RESNET

parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
parser.add_argument('--cifar', help='CIFAR-10 on disk: a folder or an archive; by default downloaded')
parser.add_argument('--tiny', nargs='+',
                    help='Tiny ImageNet on disk: a folder, an archive, or the archives that are its parts; by default downloaded')
parser.add_argument('--tasks', nargs='+', default=['cifar', 'tiny'], help='by default %(default)s')
parser.add_argument('--models', nargs='+', default=['tiny_resnet', 'ann', 'cnn', 'custom_cnn', 'fast_cnn', 'tiny_resnet from scratch'],
                    help='by default %(default)s')
parser.add_argument('--seconds', type=float, default=30, help='of each training; by default %(default)s')
parser.add_argument('--seeds', type=int, default=3)
parser.add_argument('--per-class', type=int, default=50)
args = parser.parse_args()

def few_pictures(task, seed):
    "`per_class` training pictures of each class; another choice for each seed. The rest of them serve as valid, which chooses nothing here"
    if task == 'cifar': data = cifar10(args.cifar)
    else: data = tiny_imagenet(args.tiny).subset(classes=json.loads((TINY_RESNET/'config.json').read_text())['left_out'])
    return data.subset(per_class=args.per_class, seed=seed).subset(per_class=5, splits='valid')

class Stopwatch(Callback):
    "Seconds of each training epoch"
    order = 1000
    def __init__(self): self.times = []
    def before_train(self): self.since = time.perf_counter()
    def after_train(self): self.times.append(time.perf_counter()-self.since)

def train(model, dls, seed, epochs):
    watch,name = Stopwatch(),model.split()[0]
    if model == 'tiny_resnet': learn,fit = transfer_learner(dls, seed=seed, cbs=watch),'fine_tune'
    else: learn = scratch_learner(dls, name, seed=seed, cbs=watch); fit = 'fit_linear' if learn.schedule == 'linear' else 'fit_one_cycle'
    with learn.no_bar(), learn.no_logging(): getattr(learn, fit)(epochs)
    return learn,watch

def within_budget(model, dls, seed):
    "A training of as many epochs as `seconds` allow: a short one tells how many"
    first,*_,last = train(model, dls, seed, 3)[1].times # the first may be of a frozen backbone
    return train(model, dls, seed, max(2, int((args.seconds-first)/last)))

print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}; '
      f'{args.seconds:g} s of training each, {args.per_class} labelled pictures a class', flush=True)
for task in args.tasks:
    accs = {o:[] for o in args.models}
    for seed in range(args.seeds):
        dls = few_pictures(task, seed).dataloaders(bs=50, augment='flip_crop')
        for model in args.models:
            learn,watch = within_budget(model, dls, seed)
            accs[model].append(evaluate(learn).metrics['accuracy'])
            print(f'{task}, seed {seed}: {model:24} {accs[model][-1]:.2%} after {len(watch.times)} epochs, {sum(watch.times):.0f} s',
                  flush=True)
    means = {k:np.mean(v) for k,v in accs.items()}
    for k in sorted(means, key=means.get, reverse=True):
        print(f'{task}: {k:24} {means[k]:.2%} ({min(accs[k]):.2%} to {max(accs[k]):.2%})', flush=True)
    best = max((o for o in means if o != 'tiny_resnet'), key=means.get)
    if 'tiny_resnet' in means:
        print(f'{task}: tiny_resnet is {100*(means["tiny_resnet"]-means[best]):.1f} points better than {best}', flush=True)
