"Training: what stops, what is restored, what is measured."
import pandas as pd
import pytest
import torch
from torch import nn
from fastai.vision.all import CSVLogger, SaveModelCallback
from cnnfast.files import *
from cnnfast.datasets import *
from cnnfast.folders import *
from cnnfast.loading import *
from cnnfast.models import *
from cnnfast.training import *
from cnnfast.experiments import *

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
