"""Makes `tiny_resnet`, the pretrained network that comes with cnnfast: trained from scratch on Tiny ImageNet, on a CPU.

    python benchmarks/backbone.py --tiny tiny-imagenet-200-part-a.tgz tiny-imagenet-200-part-b.tgz

Every tenth class is left out, so that there are classes it has not seen to try it on. After each epoch the training writes a checkpoint,
from which it goes on when it is started again. It takes about 70 minutes on two cores.
"""
import argparse, warnings
warnings.filterwarnings('ignore')
from cnnfast import *
from cnnfast.core.disk import whole_file
from cnnfast.data.loading import find_normalization
from cnnfast.models.pretrained import TINY_RESNET
from safetensors.torch import save

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument('--tiny', nargs='+',
                    help='Tiny ImageNet on disk: a folder, an archive, or the archives that are its parts; by default downloaded')
parser.add_argument('--out', type=Path, default=TINY_RESNET, help='the folder to write to; by default the package\'s own')
parser.add_argument('--epochs', type=int, default=16)
parser.add_argument('--bs', type=int, default=250)
parser.add_argument('--lr', type=float, default=0.12)
parser.add_argument('--seed', type=int, default=0)
parser.add_argument('--checkpoint', default='tiny_resnet.training.safetensors',
                    help='the file to save the training in; by default %(default)s')

class Log(Callback):
    "Print what each epoch came to"
    order,since = EpochLog.order+1,None
    def before_train(self): self.since = time.perf_counter()
    def after_epoch(self):
        if self.learn.epoch_log.training_now:
            print(f'{self.epoch+1}/{self.n_epoch}', {k:round(v, 4) for k,v in self.learn.epoch_log.rows[-1].items()},
                  f'{time.perf_counter()-self.since:.0f} s', flush=True)

def pictures(paths):
    """Tiny ImageNet: all training pictures of 180 classes in train, a fifth of their official validation pictures in valid,
    which chooses nothing, the others in test; and the classes left out"""
    data = tiny_imagenet(paths)
    left_out = data.vocab[::10]
    data = data.subset(classes=[o for o in data.vocab if o not in left_out])
    train = np.sort(np.concatenate([data.splits['train'], data.splits['valid']]))
    official = np.arange(len(data.splits['test'])) % 5
    return data.new(splits=dict(train=train, valid=data.splits['test'][official == 0], test=data.splits['test'][official > 0])),left_out

if __name__ == '__main__':
    args = parser.parse_args()
    data,left_out = pictures(args.tiny)
    dls = data.dataloaders(bs=args.bs, augment='standard')
    stats = {k:[round(o, 4) for o in v] for k,v in find_normalization(dls).items()}
    args.out.mkdir(parents=True, exist_ok=True)
    config = dict(timm=dict(num_classes=len(data.vocab), input_size=[3, 64, 64], **stats, first_conv='conv1', classifier='fc'),
                  classes=data.vocab, left_out=left_out)
    with whole_file(args.out/'config.json') as f: f.write_text(json.dumps(config, indent=1))
    learn = scratch_learner(dls, 'tiny_resnet', opt_func='muon', lr=args.lr, seed=args.seed,
                            cbs=[ProgressiveResizing(0.5, 0.9), Log(), Checkpoint(args.checkpoint, resume=True)])
    with learn.no_bar(), learn.no_logging(): learn.fit_linear(args.epochs, warmup=0.05)
    state = {k:v.half() if v.ndim > 1 else v for k,v in learn.model.state_dict().items()} # half precision where it saves something
    learn.model.load_state_dict(state)
    result = evaluate(learn).metrics
    with whole_file(args.out/'weights.safetensors') as f: f.write_bytes(save({k:v.contiguous() for k,v in state.items()}))
    print({k:round(v, 4) for k,v in result.items()}, f'{(args.out/"weights.safetensors").stat().st_size/1e6:.2f} MB')
