"`python -m cnnfast`: the `cnnfast` command, as `torchrun -m` and `accelerate launch -m` start it"
from cnnfast.cli.main import command

if __name__ == '__main__': command()
