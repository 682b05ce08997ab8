"""Use SHIFT in your own training loop.

`thalweg.Shift` receives the loss and the gradient norm after every update. It decides when the model switches from one pass to
three, and gives the number of passes (``loops``) and their weights (``gains``) for the next forward call.
"""

import matplotlib.pyplot as plt
import torch

import thalweg as tw

source = tw.MarkovLanguage(vocabulary=16, order=2, seed=3)
tokens = torch.from_numpy(source.sample(2000, 12, seed=0))
model = tw.LoopedTransformer(tw.ModelConfig(vocabulary=16, length=11, width=32), torch.Generator().manual_seed(0))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

# Switch when, in two successive windows of 20 updates, the loss falls by less than 5 % and the gradient norm stays about the same.
# After the switch the weights of the new passes rise from 0 to 1 over 50 updates.
shift = tw.Shift(loops=3, criterion=tw.Plateau(delta_loss=0.05, patience=2, window=20), onset=tw.Ramp(steps=50))

losses, gains = [], []
for step in range(300):
    rows = tokens[torch.randint(len(tokens), (128,), generator=torch.Generator().manual_seed(step))]
    logits = model(rows[:, :-1], loops=shift.loops, gains=shift.gains)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
    gains.append(sum(shift.gains))
    if shift.update(loss.item(), grad_norm.item()):  # True in the update after which the model switches
        print(f"loss {loss.item():.3f}:", shift.explain())
print(f"loss {loss.item():.3f} with {shift.loops} loops; gains {shift.gains}")

figure, (above, below) = plt.subplots(2, 1, figsize=(6, 4), sharex=True, height_ratios=(2, 1), layout="constrained")
above.plot(losses)
above.set(ylabel="training loss (nats)")
below.plot(gains, color="tab:orange")
below.set(xlabel="update", ylabel="sum of the gains")
figure.savefig("shift_in_your_own_loop.png")
