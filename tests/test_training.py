"Training: what stops, what is restored, what is measured."
import subprocess, sys
import pandas as pd
import pytest
import torch
from torch import nn
import numpy as np
from fastai.vision.all import CSVLogger, Callback, CrossEntropyLossFlat, SGD, SaveModelCallback
from cnnfast.data.dataset import digits
from cnnfast.data.folders import image_folder, sample_folder
from cnnfast.data.augmentation import AlternatingFlip, FlipLR
from cnnfast.models.weights import write_weights
from cnnfast.training.callbacks import ProgressiveResizing, WeightAverage
from cnnfast.training.learner import scratch_learner
from cnnfast.training.transfer import transfer_learner
from cnnfast.study.recipe import Recipe
from cnnfast.study.pipeline import compare

@pytest.fixture(scope='module')
def dls(): return digits().dataloaders(bs=64)

def fit(learn, f, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, f)(*args, **kwargs)
    return learn

def weights(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

def test_seed_holds_whatever_ran_before(dls):
    "Predicting, validating and looking for a rate in between do not change what a seed gives"
    one = fit(scratch_learner(dls, 'cnn', seed=3), 'fit_one_cycle', 1)
    two = scratch_learner(dls, 'cnn', seed=3)
    two.validate(); two.get_preds(); dls.one_batch()
    assert (weights(one) == weights(fit(two, 'fit_one_cycle', 1))).all()
    assert (weights(one) != weights(fit(scratch_learner(dls, 'cnn', seed=4), 'fit_one_cycle', 1))).any()

def test_lr_find_and_history(dls):
    learn = scratch_learner(dls, 'cnn', seed=0)
    with learn.no_bar(): learn.lr_find(num_it=20, show_plot=False)
    assert not len(learn.history())
    fit(learn, 'fit_one_cycle', 2); learn.validate(); learn.get_preds(); fit(learn, 'fit', 1)
    assert learn.history().epoch.tolist() == [0, 1, 2] and learn.history().notna().all(axis=None)

def test_early_stopping_and_validate(dls):
    learn = scratch_learner(dls, 'cnn', seed=0, patience=1)
    learn.validate(); learn.validate() # an epoch's end without training must not count
    fit(learn, 'fit', 2, lr=1e-3)
    best = weights(learn)
    learn.validate(); learn.get_preds()
    assert (weights(learn) == best).all()

def test_callbacks_of_fastai(dls, tmp_path):
    learn = scratch_learner(dls, 'cnn', path=tmp_path, cbs=[CSVLogger(), SaveModelCallback(monitor='accuracy')])
    fit(learn, 'fit_one_cycle', 2)
    assert len(pd.read_csv(tmp_path/'history.csv')) == 2 and (tmp_path/'models'/'model.pth').exists()

def test_tensorboard(dls, tmp_path):
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    fit(scratch_learner(dls, 'fast_cnn', cbs=TensorBoardCallback(tmp_path)), 'fit_linear', 2)
    log = EventAccumulator(str(tmp_path)); log.Reload()
    assert {'train_loss', 'valid_loss', 'accuracy', 'lr_0'} <= set(log.Tags()['scalars']) and log.Tags()['images']
    assert len(log.Scalars('accuracy')) == 2 and len(log.Scalars('train_loss')) >= 2*len(dls.train)

def test_lr_find_of_muon_changes_nothing(dls):
    learn = scratch_learner(dls, 'fast_cnn', seed=0, cbs=[WeightAverage(), ProgressiveResizing(multiple=1)])
    before = weights(learn)
    with learn.no_bar(): found = learn.lr_find(num_it=60, show_plot=False)
    assert (weights(learn) == before).all() and 1e-4 < found.valley < 10

def test_everything_at_once(dls):
    "The callbacks of the fast recipe, mixing, averaging and early stopping together, twice with the same result"
    def train():
        learn = scratch_learner(digits().dataloaders(bs=64, mix='cutmix'), 'fast_cnn', seed=1, patience=3, widths=(16, 32, 32),
                                cbs=[ProgressiveResizing(multiple=1), WeightAverage()])
        return fit(learn, 'fit_linear', 5, warmup=0.1)
    one,two = train(),train()
    assert (weights(one) == weights(two)).all() and one.history().accuracy.max() > 0.6
    assert one.validate()[0] == pytest.approx(one.history().valid_loss.min()) # the weights of the best epoch, averaged

def test_alternating_flip_shows_both_sides(photos):
    "In two epochs in a row each picture comes as it is and mirrored; halves change with the picture, not with its place in the batch"
    dl = image_folder(photos, size=16).dataloaders(bs=7, augment=[AlternatingFlip()], normalize='none').train.new(shuffle=False,
        drop_last=False)
    plain = torch.cat([x for x,_ in dl.new(after_batch=[o for o in dl.after_batch.fs if not isinstance(o, FlipLR)])])
    one,two,three = [torch.cat([x for x,_ in dl]) for _ in range(3)]
    mirrored = (one != plain).flatten(1).any(1)
    assert 0.4 < mirrored.float().mean() < 0.6
    assert (one == torch.where(mirrored[:,None,None,None], plain.flip(-1), plain)).all()
    assert (two == one.flip(-1)).all() and (three == one).all()

# What goes wrong

@pytest.mark.parametrize('kwargs', [dict(model='cnn', opt_func='sgd', lr=0.05), dict(model='fast_cnn', cbs=WeightAverage())])
def test_diverging_loss(dls, kwargs):
    "Stops, names epoch and batch, and leaves the weights of the last whole epoch"
    class Blow(Callback): # a rate that explodes in the second epoch
        order = 70
        def before_batch(self):
            if self.training and self.epoch == 1: self.opt.set_hyper('lr', 1e30)
    learn = scratch_learner(dls, seed=0, **{**kwargs, 'cbs':[Blow(), *([kwargs['cbs']] if 'cbs' in kwargs else [])]})
    with pytest.raises(FloatingPointError, match='(nan|inf) in epoch 2, batch [23] of 19, at a rate of 1e.30: .*the end of epoch 1'):
        fit(learn, 'fit', 3)
    assert all(o.isfinite().all() for o in learn.model.state_dict().values())
    assert learn.validate()[1] > 0.2

def test_no_memory_on_the_device():
    "On a machine with little memory: the batch size, and half of it"
    code = '''
import resource
from cnnfast import *
data = digits().subset(per_class=100)
data.size = 64
learn = scratch_learner(data.dataloaders(bs=1000), 'cnn')
learn.model(torch.zeros(8, 1, 64, 64)).sum().backward() # starts the threads
pages = int(Path('/proc/self/statm').read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages*resource.getpagesize() + 2**28,)*2)
with learn.no_bar(), learn.no_logging():
    try: learn.fit(1)
    except MemoryError as e: print(e)
'''
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert 'No memory left on cpu for a batch of 1,000 pictures of 64×64 pixels: try half, bs=500' in out.stdout, out.stdout + out.stderr

@pytest.mark.parametrize('model,words', [('inception_v4', 'needs at least 75'), ('vit_tiny_patch16_224', 'needs 224')])
def test_pictures_too_small(dls, model, words):
    with pytest.raises(ValueError, match=f'{model} cannot take pictures of 8×8 pixels.*{words}'): scratch_learner(dls, model)

def test_unknown_names(dls):
    with pytest.raises(ValueError, match="no optimiser 'adm': did you mean adam"): scratch_learner(dls, 'cnn', opt_func='adm')
    with pytest.raises(ValueError, match="no activation 'gellu': did you mean gelu"): scratch_learner(dls, 'fast_cnn', activation='gellu')

def test_module_and_unknown_arguments(dls):
    assert fit(scratch_learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), 'fit', 1).model_name == 'Sequential'
    with pytest.raises(TypeError, match='wdith'): scratch_learner(dls, nn.Flatten(), wdith=3)
    with pytest.raises(ValueError, match='has no pretrained weights'): transfer_learner(dls, 'cnn')

@pytest.mark.parametrize('arch', ['test_resnet', 'test_vit', 'test_efficientnet'])
def test_transfer_keeps_the_backbone(arch, tmp_path):
    "Weights from disk arrive in the backbone unchanged, and the head alone trains at first"
    import timm
    size = timm.get_pretrained_cfg(arch).input_size[-1] if arch == 'test_vit' else 64
    source = timm.create_model(arch)
    write_weights(source, tmp_path/'w.safetensors')
    dls = image_folder(sample_folder(tmp_path/'photos'), size=size).dataloaders(bs=32)
    learn = transfer_learner(dls, arch, weights=tmp_path/'w.safetensors')
    mine = learn.model[0][1].model.state_dict()
    assert all((v == source.state_dict()[k]).all() for k,v in mine.items()) and len(mine) > 10
    assert not any(p.requires_grad for p in next(m for m in learn.model[0].modules() if isinstance(m, nn.Conv2d)).parameters())
    fit(learn, 'fine_tune', 1)

def test_transfer_grey_and_renormalize(dls, tmp_path):
    import timm
    write_weights(timm.create_model('test_resnet'), tmp_path/'w.safetensors')
    learn = fit(transfer_learner(dls, 'test_resnet', weights=tmp_path/'w.safetensors', seed=0), 'fine_tune', 1)
    x = dls.valid.one_batch()[0]
    assert learn.model[0][0](x).shape == x.shape and len(learn.history()) == 2

def test_comparison_with_recipes(dls):
    data = digits()
    res = compare(data, [Recipe('custom_cnn', 1, kwargs=dict(activation='gelu')), Recipe('custom_cnn', 1)], seeds=[5], verbose=False)
    assert res.table.index.tolist() and set(res.table.index) == {'custom_cnn (1)', 'custom_cnn (2)'} and (res.results.seed == 5).all()
