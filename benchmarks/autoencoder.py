"""What an autoencoder on a classifier reaches: pictures redrawn with skip connections and from a latent vector,
and masks drawn from a trained and from a random backbone.

    cnnfast run cifar10 --path cifar10.tgz --models fast_cnn --epochs 5 --out members
    cnnfast run cifar10 --path cifar10.tgz --models cnn --epochs 2 --out others
    python benchmarks/autoencoder.py --cifar cifar10.tgz --classifier members/fast_cnn/seed-0 --other others/cnn/seed-0

`--tiny` adds the classes of Tiny ImageNet that `tiny_resnet` has never seen, at 64 pixels, with a classifier
fine-tuned on them. About an hour on two cores; `--parts` takes less.
"""
import argparse, os, platform, resource, time, warnings
warnings.filterwarnings('ignore')
from cnnfast import *
from cnnfast.models.pretrained import TINY_RESNET

parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
parser.add_argument('--cifar', help='CIFAR-10 on disk: a folder or an archive; by default downloaded')
parser.add_argument('--tiny', nargs='+',
                    help='Tiny ImageNet on disk: a folder, an archive, or the archives that are its parts; by default it is left out')
parser.add_argument('--classifier', help='the folder of a model trained on CIFAR-10')
parser.add_argument('--other', help='the folder of another one, for the latent vector')
parser.add_argument('--parts', nargs='+', default=['redrawn', 'latent', 'masked', 'random', 'tiny'], help='by default %(default)s')
parser.add_argument('--seeds', type=int, default=1)
parser.add_argument('--figures', help='a folder for a figure of each part')
args = parser.parse_args()

def measure(name, learn, fit):
    "Train, and print what the drawings of test are worth"
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): fit(learn)
    seconds = time.perf_counter()-start
    t = reconstruction_scores(learn)
    each = t.attrs['pictures'].drop(columns='class')
    half = 1.96*each.std()/np.sqrt(each.notna().sum())
    says = ', '.join(f'{k} {each[k].mean():.3f} (±{half[k]:.3f}; classes {t[k][1:].min():.2f} to {t[k][1:].max():.2f})' for k in each)
    empty = f'; {each.iou.isna().sum()} of {len(each)} maps are empty' if 'iou' in each else ''
    print(f'{name}: {says}{empty}; {len(learn.history())} epochs, {seconds:,.0f} s with validation, '
          f'peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10:,.0f} MB', flush=True)
    if args.figures:
        Path(args.figures).mkdir(exist_ok=True, parents=True)
        show_masks(learn, look_at(learn, list(range(0, len(each), len(each)//10))[:10], 'test')).figure.savefig(
            f'{args.figures}/{name}.png', dpi=110)

def classes_of_tiny():
    "20 classes that `tiny_resnet` has not seen, and a classifier of them"
    data = tiny_imagenet(args.tiny).subset(classes=json.loads((TINY_RESNET/'config.json').read_text())['left_out'])
    learn = transfer_learner(data.dataloaders(bs=64), seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(2)
    print(f'tiny: {data}; the classifier: {evaluate(learn).metrics["accuracy"]:.1%}', flush=True)
    return learn

print(f'{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}', flush=True)
for seed in range(args.seeds):
    if cifar_parts := [o for o in args.parts if o != 'tiny']:
        dls = cifar10(args.cifar).dataloaders(bs=128)
        known = load_model(args.classifier, 'cpu')
    for part in cifar_parts:
        if part == 'redrawn': measure('redrawn', autoencoder_learner(known, dls, lr=8e-3, seed=seed), lambda o: o.fit_one_cycle(2))
        if part == 'latent':
            for folder in filter(None, (args.other, args.classifier)):
                learn = autoencoder_learner(folder, cifar10(args.cifar).dataloaders(bs=64), skips=False, seed=seed)
                measure(f'latent, {load_model(folder, "cpu").architecture["name"]}', learn,
                        lambda o: o.fine_tune(3, freeze_epochs=1, lr_mult=2))
        if part == 'masked':
            measure('masked', autoencoder_learner(known, dls, target='masked', loss='l1', lr=8e-3, seed=seed),
                    lambda o: o.fit_one_cycle(1))
        if part == 'random':
            blank = scratch_learner(dls, known.architecture['name'], seed=100+seed, **known.architecture['kwargs'])
            measure('masked, random backbone',
                    autoencoder_learner(blank, target='masked', classifier=known, loss='l1', lr=8e-3, seed=seed),
                    lambda o: o.fit_one_cycle(1))
    if args.tiny and 'tiny' in args.parts:
        learn = classes_of_tiny()
        measure('tiny, redrawn', autoencoder_learner(learn, seed=seed), lambda o: o.fine_tune(1, base_lr=o.lr, freeze_epochs=1))
        measure('tiny, masked', autoencoder_learner(learn, target='masked', seed=seed), lambda o: o.fit_one_cycle(2))
