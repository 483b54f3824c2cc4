"The pretrained network that comes with the package."
import json, re, socket
import numpy as np, pytest, timm, torch
from conftest import TINY, needs_cifar, needs_tiny
from safetensors.torch import load_file
from cnnfast.data.dataset import digits
from cnnfast.data.standard_sets import cifar10, tiny_imagenet
from cnnfast.models.pretrained import TINY_RESNET
from cnnfast.training.transfer import transfer_learner
from cnnfast.evaluation.metrics import evaluate

CONFIG = json.loads((TINY_RESNET/'config.json').read_text())
CARD = (TINY_RESNET/'README.md').read_text()

def test_no_download(monkeypatch):
    "It is the default, it is pretrained, and nothing is asked of the network"
    def refuse(*args, **kwargs): raise AssertionError('a connection')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    body = transfer_learner(digits().dataloaders(), seed=0).model[0][-1].model
    weights = load_file(TINY_RESNET/'weights.safetensors')
    assert (body.layer4[1].conv2.weight.cpu() == weights['layer4.1.conv2.weight'].float()).all()
    # grey: timm adds the channels up, in half precision
    assert body.conv1.weight.shape[1] == 1
    assert torch.allclose(body.conv1.weight.cpu(), weights['conv1.weight'].float().sum(1, keepdim=True), atol=2e-3)

def test_size_and_card():
    assert sum(o.stat().st_size for o in TINY_RESNET.iterdir()) < 6e6
    assert {o.name for o in TINY_RESNET.iterdir()} == {'README.md', 'config.json', 'weights.safetensors'}
    assert len(CONFIG['classes']) == 180 and len(CONFIG['left_out']) == 20 and not set(CONFIG['classes']) & set(CONFIG['left_out'])
    assert all(o in CARD for o in CONFIG['left_out'])

def test_it_is_one_of_timms():
    m = timm.create_model('tiny_resnet', pretrained=True, num_classes=0).eval()
    assert m(torch.zeros(2, 3, 64, 64)).shape == (2, 256) and [o['reduction'] for o in m.feature_info] == [2, 2, 4, 8, 16]
    features = timm.create_model('tiny_resnet', features_only=True)(torch.zeros(1, 3, 64, 64))
    assert [64//o.shape[-1] for o in features] == [2, 2, 4, 8, 16]

@needs_cifar
def test_knows_real_pictures(cifar_2000):
    "Its features of 50 pictures a class are enough for a head that is right on nearly half of CIFAR-10, in seconds"
    data = cifar10(cifar_2000).subset(per_class=50)
    learn = transfer_learner(data.dataloaders(bs=50, augment=False), seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit_head()
    assert evaluate(learn).metrics['accuracy'] > 0.45

@needs_tiny
@pytest.mark.filterwarnings('ignore:.*not in wnids.txt')
def test_accuracy_of_the_card():
    "On 1,000 of the pictures that the card speaks of, within three standard errors"
    data = tiny_imagenet(TINY).subset(classes=CONFIG['classes'])
    assert data.vocab == CONFIG['classes']
    pics,*_ = data.decoded()
    test = data.splits['test']
    rows = test[np.arange(len(test)) % 5 > 0][::7][:1000]
    cfg = CONFIG['timm']
    xb = (torch.from_numpy(np.array(pics[rows])).float()/255 - torch.tensor(cfg['mean'])[:,None,None])/torch.tensor(cfg['std'])[:,None,None]
    with torch.inference_mode():
        acc = (timm.create_model('tiny_resnet', pretrained=True).eval()(xb).argmax(1).numpy() == data.targs[rows]).mean()
    claim = float(re.search(r'([\d.]+)% accuracy', CARD)[1])/100
    assert abs(acc - claim) < 3*(claim*(1-claim)/len(rows))**0.5
