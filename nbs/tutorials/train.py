"""Trains what a tutorial shows, once, on all of its data: `python nbs/tutorials/train.py 02_ann_and_cnn`.

It runs the code of the notebook up to the cell that compares models, which writes what it trains to `results/` beside the notebook.
The notebook reads it from there."""
import json, os, sys
from pathlib import Path

def cells(path):
    "The code of a notebook up to the cell that makes the `comparison`, without the lines that draw"
    for c in json.loads(Path(path).read_text(encoding='utf-8'))['cells']:
        if c['cell_type'] != 'code': continue
        lines = [o for o in ''.join(c['source']).splitlines() if 'plot_' not in o and '.show(' not in o]
        yield '\n'.join(lines)
        if any(o.startswith('comparison = ') for o in lines): return

if __name__ == '__main__':
    here = Path(__file__).parent
    name = Path(sys.argv[1]).stem if len(sys.argv) == 2 else sys.exit(__doc__)
    os.chdir(here)
    names = {}
    for o in cells(f'{name}.ipynb'): exec(o.replace('verbose=False', 'verbose=True'), names)
    print(names['comparison'].show_table().to_string())
