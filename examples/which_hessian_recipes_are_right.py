"""Which ways to compute a Hessian in PyTorch give the right matrix?

Prints a Markdown table of relative errors (Frobenius norm, float64) for three models. The reference is a fourth-order difference of
the gradient. Two other libraries are included if they are installed.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

import thalweg as tw

METHODS = ("recorded", "rebuilt", "differences")


def errors(model, loss, batch, step=2e-4):
    """Compute the relative error of every recipe, as text, for one model and batch."""
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    x = torch.cat([weight.flatten() for weight in weights.values()])
    eye, leaf = torch.eye(len(x)).to(x), x.clone().requires_grad_()
    arguments = (lambda m, b: loss(m(b[0]), b[1]), model, [batch])  # of thalweg's functions

    def f(flat):
        pieces = zip(weights.items(), flat.split([weight.numel() for weight in weights.values()]), strict=True)
        return loss(functional_call(model, {name: piece.view_as(old) for (name, old), piece in pieces}, (batch[0],)), batch[1])

    def gradients_at(multiple):
        return vmap(lambda direction: grad(f)(x + multiple * step * direction))(eye)

    # Every recipe returns the matrix (P, P).
    g = torch.autograd.grad(f(leaf), leaf, create_graph=True)[0]
    recipes = {
        "`torch.func.hessian`": lambda: hessian(f)(x),
        "`jvp(jacrev)`": lambda: vmap(lambda v: jvp(jacrev(f), (x,), (v,))[1])(eye),
        "`jacrev(jacrev)`": lambda: jacrev(jacrev(f))(x),
        "`jvp(grad)`": lambda: vmap(lambda v: jvp(grad(f), (x,), (v,))[1])(eye),
        "`vmap(vjp(grad))`": lambda: vmap(vjp(grad(f), x)[1])(eye)[0],
        "double backward": lambda: torch.stack([torch.autograd.grad(g, leaf, v, retain_graph=True)[0] for v in eye]),
        "`torch.autograd.functional.hessian`": lambda: torch.autograd.functional.hessian(f, x),
        "`dense_hessian`": lambda: tw.dense_hessian(*arguments).matrix,
    }
    recipes |= {f"`Hessian`, {m}": lambda m=m: tw.Hessian(*arguments, method=m) @ eye for m in METHODS}
    try:
        from curvlinops import HessianLinearOperator as Linear
        from hessian_eigenthings import HessianOperator as Rival

        recipes["curvlinops"] = lambda: Linear(model, loss, [*model.parameters()], [batch], check_deterministic=False) @ eye
        recipes["hessian-eigenthings"] = lambda: torch.stack([Rival(model, [batch], arguments[0]) @ v for v in eye])
    except ImportError as missing:
        print(f"left out: {missing}")

    # The reference: fourth-order central differences of the gradient.
    truth = (8 * (gradients_at(1) - gradients_at(-1)) - gradients_at(2) + gradients_at(-2)) / (12 * step)
    return {name: f"{float((recipe().detach() - truth).norm() / truth.norm()):.0e}" for name, recipe in recipes.items()}


tokens = torch.randint(7, (4, 7), generator=torch.manual_seed(0))
layers = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6), nn.LayerNorm(6))
transformers = [tw.LoopedTransformer(tw.ModelConfig(vocabulary=7, length=6, width=8, norm=norm)) for norm in ("pre", "none")]
pre, none = (nn.Sequential(transformer, nn.Flatten(0, 1)) for transformer in transformers)
models, columns = {"LayerNorm regression": layers, "pre-norm language model": pre, "the same, no norm": none}, {}
for name, model in models.items():
    for weight in model.double().parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    loss = nn.PoissonNLLLoss() if model is layers else nn.CrossEntropyLoss()
    data = torch.rand(2, 8, 6).double().unbind() if model is layers else (tokens[:, :-1], tokens[:, 1:].flatten())
    with sdpa_kernel(SDPBackend.MATH):  # the attention kernel that has second derivatives
        columns[name] = errors(model, loss, data)
for row in [["recipe", *columns], ["---"] * 4, *zip(columns[name], *(column.values() for column in columns.values()), strict=True)]:
    print("|", " | ".join(row), "|")

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, column), marker in zip(columns.items(), "osx", strict=True):
    axes.semilogx([float(error) for error in column.values()], [recipe.replace("`", "") for recipe in column], marker, label=name)
axes.set(xlabel="relative error of the matrix")
axes.invert_yaxis()
axes.legend()
figure.savefig("which_hessian_recipes_are_right.png")
