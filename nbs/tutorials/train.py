"""Trains what a tutorial shows, once, on all of its data: `python nbs/tutorials/train.py 02_ann_and_cnn`.

It runs the code of the notebook up to the last cell that writes what it trains to `results/` beside the notebook.
The notebook reads it from there."""
import json, os, sys
from pathlib import Path

def cells(path):
    "The code of a notebook up to the last cell that names the `results`, without the lines that draw"
    found = [c['source'] for c in json.loads(Path(path).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    last = max(i for i,o in enumerate(found) if 'else results' in ''.join(o))
    for o in found[:last+1]: yield '\n'.join(l for l in ''.join(o).splitlines() if 'plot_' not in l and '.show(' not in l)

if __name__ == '__main__':
    here = Path(__file__).parent
    name = Path(sys.argv[1]).stem if len(sys.argv) == 2 else sys.exit(__doc__)
    os.chdir(here)
    names = {}
    for o in cells(f'{name}.ipynb'): exec(o.replace('verbose=False', 'verbose=True'), names)
    print(names['comparison'].show_table().to_string())
