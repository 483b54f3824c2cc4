"""Photographs on this machine: probe and fine-tuning beside fastai, sizes, loading, the store, a budget of minutes, memory.

    python benchmarks/photographs.py --ants hymenoptera.tgz --scenes intel-scenes.tgz [--parts accuracy,speed,…] [--out results.csv]

fastai gets the same pictures, splits, backbone and weights: `vision_learner(dls, 'tf_efficientnet_lite0', pretrained=False)` with the same
tensors loaded, `RandomResizedCrop(224)` and `aug_transforms()`, batches of 32, `fine_tune(4)`.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile, threading, time
from pathlib import Path
import numpy as np
import pandas as pd
import psutil
import timm
from cnnfast import *
from cnnfast.models.shipped import packaged_weights
from cnnfast.study.recipe import Recipe, settled
from cnnfast.study.pipeline import loaders_of
from cnnfast.study.run import run_recipe
from cnnfast.training.callbacks import reused_memory
from cnnfast.training.folding import fold_norms, unfold_norms
from cnnfast.training.probe import kept_features, probe_learner, train_size

ARCH = 'tf_efficientnet_lite0'
ROWS = []

def note(part, **facts):
    ROWS.append(dict(part=part, **facts))
    print(part, ', '.join(f'{k} {v:.4g}' if isinstance(v, float) else f'{k} {v}' for k,v in facts.items()), flush=True)

def quietly(learn, f):
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): f()
    return time.perf_counter()-start

def right(probs, targs): return float((np.asarray(probs).argmax(1) == np.asarray(targs)).mean())

# Accuracy

def with_fastai(data, epochs=4, size=224):
    "fastai's accuracy on valid, and the seconds of training"
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, RandomResizedCrop
    files,n = [Path(o) for o in data.items],len(data.splits['train'])
    rows = np.concatenate([data.splits['train'], data.splits['valid']]).tolist()
    block = DataBlock((ImageBlock, CategoryBlock(vocab=data.vocab)), get_x=lambda i: files[i], get_y=lambda i: data.vocab[data.targs[i]],
                      splitter=lambda o: (list(range(n)), list(range(n, len(o)))), item_tfms=RandomResizedCrop(size, min_scale=0.35),
                      batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5]*3, [0.5]*3)])
    dls = block.dataloaders(rows, bs=32)
    learn = vision_learner(dls, ARCH, pretrained=False, normalize=False, metrics=accuracy)
    state = {k:v for k,v in packaged_weights(ARCH).items() if not k.startswith('classifier')}
    learn.model[0].model.load_state_dict(state)
    seconds = quietly(learn, lambda: learn.fine_tune(epochs))
    with learn.no_bar(): return right(*learn.get_preds()),seconds

def with_cnnfast(data, epochs, seed):
    "Accuracy on valid and seconds, of the probe and of fine-tuning from it"
    res = {}
    for name,n in dict(probe=0, tuned=epochs).items():
        recipe = settled(Recipe(ARCH, epochs=n, probe=True), data)
        shutil.rmtree(Path(os.environ['CNNFAST_HOME'])/'features', ignore_errors=True)
        r = run_recipe(recipe, loaders_of(data, None, {})(recipe), seed)
        res[name] = (r.valid.metrics['accuracy'], r.train_seconds, r.peak_memory_mb) # of memory only the first trial tells
    return res

def compare_accuracy(name, trials, epochs, fastai):
    for i,data in enumerate(trials):
        ours = with_cnnfast(data, epochs, i)
        facts = {f'{k}_{m}':v for k,o in ours.items() for m,v in zip(('accuracy', 'seconds', 'mb'), o)}
        if fastai: facts['fastai_accuracy'],facts['fastai_seconds'] = with_fastai(data)
        note(f'accuracy, {name}', trial=i, **facts)

def accuracy_part(args):
    ants = image_folder(args.ants, valid_pct=0.2, test_pct=None)
    ants = ants.new(own_test=False)
    if 'ants' in args.sets: compare_accuracy('ants and bees, 5 folds', ants.folds(5)[:args.trials], args.epochs, args.fastai)
    if 'scenes' in args.sets:
        few = [image_folder(args.scenes, seed=s).subset(per_class=295, seed=s) for s in range(3)]
        few = [o.new(splits=dict(train=o.splits['train'], valid=o.splits['test'])) for o in few] # nothing is chosen by valid here
        compare_accuracy('scenes, 1,770 for training', few[:args.trials], args.epochs, args.fastai)

# The recipe: each row changes one thing

VARIANTS = {'as it is':{}, 'all stages':dict(frozen=0), 'all stages, two thirds of the epochs':dict(frozen=0, share=2/3),
            'rate 1e-3':dict(lr=1e-3), 'rate 1e-4':dict(lr=1e-4), 'one rate for all layers':dict(lr_mult=1),
            'no mixup':dict(mixup=0), 'mixup 0.4':dict(mixup=0.4), 'no average of weights':dict(average=0),
            'statistics of batch norm trained':dict(freeze_norms=False), 'half as many epochs':dict(share=0.5),
            'pieces as large as whole pictures':dict(full=True), 'growing pieces':dict(growing=True),
            'TrivialAugment':dict(augment='trivial')}

def recipe_part(args):
    data = image_folder(args.scenes, seed=0).subset(per_class=295, seed=0).subset(per_class=200, splits='valid')
    recipe = settled(Recipe(ARCH, epochs=args.epochs, probe=True), data)
    for name,o in VARIANTS.items():
        if args.variants and name not in args.variants: continue
        how,sized = dict(o),data.new(size=recipe.size)
        n,full = max(1, round(recipe.epochs*how.pop('share', 1))),how.pop('full', False)
        augment = sized.augmentations('strong') if how.pop('augment', None) else True # in a list: without cutmix
        dls = sized.dataloaders(bs=recipe.bs, val_bs=recipe.bs, train_size=None if full else train_size(recipe.size), augment=augment)
        if how.pop('growing', False): how['cbs'] = ProgressiveResizing()
        learn = probe_learner(dls, ARCH, seed=0)
        seconds = quietly(learn, lambda: learn.fine_tune_probe(n, **how))
        note(f'recipe, scenes, {name}', probe=learn.history().valid_accuracy[0], tuned=evaluate(learn, 'valid').metrics['accuracy'],
             seconds=seconds)

# Sizes

def sizes_part(args):
    "A probe of ants and bees, in five folds: by size, and by the way that other shapes are brought to it"
    ways = [('crop', o) for o in (128, 160, 192, 224, 288)] + [(o, 224) for o in ('pad', 'squish')]
    for resize,size in ways:
        accs,seconds = [],0
        for data in image_folder(args.ants, test_pct=None, resize=resize).new(own_test=False).folds(5):
            learn = probe(data.new(size=size), ARCH, seed=0)
            accs.append(evaluate(learn, 'valid').metrics['accuracy']); seconds += learn.probe_seconds
        note('sizes, ants and bees, probe', resize=resize, size=size, accuracy=float(np.mean(accs)), seconds=seconds/5)

def border_part(args):
    "Small pictures: a probe of tiny_resnet, and of the larger backbone on enlarged pictures"
    for side in (24, 32, 48, 64):
        data = image_folder(args.scenes, size=side).subset(per_class=200, splits='train').subset(per_class=100, splits='valid')
        dls = data.dataloaders(bs=32)
        for arch,size in [('tiny_resnet', None), *[(ARCH, o) for o in (64, 96, 128, 160)]]:
            learn = probe_learner(dls, arch, size=size, seed=0)
            learn.fit_probe(cache=False)
            note('border, scenes', side=side, arch=arch, enlarged=size, accuracy=learn.history().valid_accuracy[0],
                 seconds=learn.probe_seconds)

# From the store, or from files?

def agreement_part(args):
    "What a model says of the photographs of a fold as they are kept, and of their files"
    ants = image_folder(args.ants, test_pct=None).new(own_test=False).folds(5)[0]
    learn = probe(ants, ARCH, cache=False, seed=0)
    kept = evaluate(learn, 'valid').probs
    with tempfile.TemporaryDirectory() as d:
        save_model(learn, f'{d}/model')
        files = load_model(f'{d}/model').predict_proba([ants.items[int(i)] for i in ants.splits['valid']])
    note('agreement', same_class=float((kept.argmax(1) == files.argmax(1)).mean()), difference=float(np.abs(kept-files).mean()))

# Speed

def many_photographs(args, folder, n=2500):
    "`n` photographs of 512×384 pixels, cut from those of ants and bees"
    data,rng = image_folder(args.ants),np.random.default_rng(0)
    for i in range(n):
        o = data.items[i % len(data.items)]
        to = folder/data.vocab[data.targs[i % len(data.items)]]/f'{i}.jpg'
        to.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(o) as im:
            im = im.convert('RGB').resize((560, 420))
            x,y = rng.integers(0, 48),rng.integers(0, 36)
            im.crop((x, y, x+512, y+384)).save(to, quality=90)
    return image_folder(folder)

def speed_part(args):
    with tempfile.TemporaryDirectory() as d:
        data = many_photographs(args, Path(d)/'photos')
        start = time.perf_counter(); data.decoded(); decoding = time.perf_counter()-start
        note('speed, decoding', pictures=len(data.items), seconds=decoding, per_second=len(data.items)/decoding)
        start = time.perf_counter(); learn = probe(data, ARCH); probing = time.perf_counter()-start
        note('speed, probe of 2,500', decoding_and_probe=decoding+probing, size=224)
        features_speed(data)
        loading_speed(data, args)
        start = time.perf_counter()
        dls = image_folder(Path(d)/'photos').new(size=160).dataloaders(bs=32); dls.train.one_batch()
        note('speed, second start', seconds_to_first_batch=time.perf_counter()-start)

def features_speed(data, size=224, bs=32):
    "Features of decoded photographs, beside the backbone alone on a batch that lies ready"
    dls = data.new(size=size).dataloaders(bs=bs, val_bs=bs)
    learn = probe_learner(dls, ARCH)
    kept_features(learn, 'valid', cache=False) # warm
    start = time.perf_counter(); n = len(kept_features(learn, 'valid', cache=False)[0]); whole = n/(time.perf_counter()-start)
    x = dls.valid.one_batch()[0].as_subclass(torch.Tensor).contiguous(memory_format=torch.channels_last)
    body = learn.model[0].eval()
    pairs = fold_norms(body, x[:2])
    with torch.inference_mode(), reused_memory('cpu'):
        body(x); start = time.perf_counter()
        for _ in range(10): body(x)
        alone = 10*bs/(time.perf_counter()-start)
        unfold_norms(pairs)
        body(x); start = time.perf_counter()
        for _ in range(10): body(x)
        plain = 10*bs/(time.perf_counter()-start)
    note('speed, features', per_second=whole, backbone_folded=alone, share=whole/alone, backbone_plain=plain)

def loading_speed(data, args, size=160, bs=32):
    "Random resized crops, from the store and by fastai from files"
    from fastai.vision.all import DataBlock, ImageBlock, CategoryBlock, RandomResizedCrop, parent_label, get_image_files
    dl = data.new(size=size).dataloaders(bs=bs).train
    for _ in dl: pass
    start = time.perf_counter(); n = sum(len(x) for x,_ in dl); ours = n/(time.perf_counter()-start)
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=RandomResizedCrop(size),
                      batch_tfms=Normalize.from_stats([0.5]*3, [0.5]*3))
    theirs = block.dataloaders(data.path, bs=bs, num_workers=2).train
    start = time.perf_counter(); n = sum(len(x) for x,_ in theirs); fastai = n/(time.perf_counter()-start)
    note('speed, loading', size=size, cnnfast=ours, fastai=fastai, times=ours/fastai)

# Minutes, memory

def run_part(args):
    "With so many minutes; 0: without a limit"
    for minutes in args.minutes:
        with tempfile.TemporaryDirectory() as d:
            start = time.perf_counter()
            env = {**os.environ, 'CNNFAST_HOME':f'{d}/home'}
            how = ['--minutes', str(minutes)] if minutes else ['--models', f'probe-{ARCH},{ARCH}']
            command = [Path(sys.executable).with_name('cnnfast'), 'run', args.scenes, *how, '--out', f'{d}/out']
            p = psutil.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            peak = 0
            while p.poll() is None:
                try: peak = max(peak, p.memory_info().rss)
                except psutil.Error: break
                time.sleep(0.05)
            said = p.stdout.read()
            t = pd.read_csv(f'{d}/out/results.csv')
            print(said)
            note('minutes, scenes', minutes=minutes, seconds=time.perf_counter()-start, peak_mb=peak/2**20,
                 accuracy=float(t.sort_values('valid_accuracy').accuracy.iloc[-1]))

PARTS = dict(accuracy=accuracy_part, recipe=recipe_part, sizes=sizes_part, border=border_part, agreement=agreement_part,
             speed=speed_part, run=run_part)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--ants', help='hymenoptera.tgz'); p.add_argument('--scenes', help='intel-scenes.tgz')
    p.add_argument('--parts', default=','.join(PARTS)); p.add_argument('--sets', default='ants,scenes')
    p.add_argument('--trials', type=int); p.add_argument('--epochs', type=int)
    p.add_argument('--no-fastai', dest='fastai', action='store_false')
    p.add_argument('--minutes', type=float, nargs='+', default=[3, 10, 0])
    p.add_argument('--variants', nargs='+', help='of the recipe; by default all'); p.add_argument('--out')
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ['CNNFAST_HOME'] = home
        for o in args.parts.split(','): PARTS[o](args)
    t = pd.DataFrame(ROWS)
    print(t.groupby('part').mean(numeric_only=True).round(4).T.to_string())
    if args.out: t.to_csv(args.out, index=False)

if __name__ == '__main__': main()
