"""How verdicts come about, in words; and what was decided when."""

from experiments.claims.verdict import CONFIDENCE

METHOD = f"""\
A sentence is tested by comparisons: a quantity with and without what the sentence speaks of, by \
the same seeds, which draw initial weights, batches and dropout. The effect is the mean over seeds \
of treated minus control, or of their ratio (the geometric mean, written ×) where a quantity spans \
decades; in brackets its {CONFIDENCE:.0%} interval by Student's t. A comparison comes out as \
claimed if the interval excludes no effect and the mean is at least the margin, and weakly if the \
mean is in the claimed direction but less than the margin; as "no different", \
if the whole interval lies within the margin to both sides; as "no more" or "no less", if it lies \
on the right side of the margin to one. It does not, if the interval excludes what was claimed; \
else the seeds do not decide. Where a value is at the end of what is measured (a run that was \
stopped, a signal below what numbers hold), the effect is a bound, ≤ or ≥, and nothing rests on \
its open side. Intervals are each comparison's own, not corrected for how many there are, and of \
seeds only: what a grid of rates leaves between its points is not in them. A seed's learning rate \
is the one that was best for the others, so that no result is the luckiest of many; where an end \
of the grid is best, the claim is refused. What held-out data choose, such as the strength of a \
penalty, is chosen by each seed.

A sentence holds if all its comparisons come out as claimed, holds weakly if all do so weakly, and \
holds only under the conditions named if some do and others do weakly or do not; it is decided in \
part if some do, if weakly, and no other is decided; if \
none does, it does not hold, or, where no comparison speaks against it, is undecided. A verdict is \
about these nets and data: small ones, of which many seeds can be run.

Margins were set by reasoning, before the runs, but not all else was. After a first look at \
results, an expectation was changed from "more" to "the same", and the rates tried, in momentum; a \
quantity in adaptive; the lag in bptt; rates in vanishing; the number of steps in exploding; the \
optimizer in dying_relu; a second target in batch_size. Then a review of sentences that could not \
fail, of controls that were bound to lose and of unequal costs changed quantities, controls and \
wordings in nearly all claims; the new ones were again set before they were run, and what had to \
be changed after that is said with the claim. A third look, at what verdicts rest on, changed how \
rates are chosen (five claims took each seed's own best), grids coarser than their margins \
(batch_size, exploding), bounds that were not what the sentence says (learning_rate, bptt), what \
is typical of a standstill (plateaus), searches that saw different data (selection) and a share of \
wrong labels that was a tenth less than said (double_descent), and added a batch size to \
batch_norm and a control to bptt; all of it before the new runs, and nothing after. A fourth one \
told apart what does not hold from what holds by less than its margin (weakly), let the range of \
searches move (selection), made caps of batch sizes bounds, left runs in which no unit died out of \
what is said of dead ones (dying_relu), and asked of strengths what was asked of rates: whether \
the best ends its grid (overfitting). So these \
verdicts are not those of a study that was registered beforehand, and a new set of seeds (--seed) \
on the same settings is the fairer test."""
