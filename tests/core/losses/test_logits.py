"""The fused logit loss against closed forms and the dense computation."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tinywave_core.errors import TrainingError
from tinywave_core.losses.logits import LiveTeacher, TeacherTargets, fused_logit_loss

pytestmark = pytest.mark.arithmetic


def all_targets(p_NV: torch.Tensor) -> TeacherTargets:
    """The whole distribution as if it were sparse."""
    ids = torch.arange(p_NV.shape[1]).expand_as(p_NV)
    return TeacherTargets(ids, p_NV, -(p_NV * p_NV.log()).sum(-1))


def loss(hidden, weight, labels, targets=None, lm=0.0, kl=0.0, temperature=1.0):
    return fused_logit_loss(hidden, weight, labels, targets, language_model=lm, logits=kl, temperature=temperature)


def test_uniform_logits_cost_log_v_per_token():
    out = loss(torch.zeros(3, 4), torch.randn(7, 4), torch.tensor([0, 3, 6]), lm=1.0)
    assert out.total.item() == pytest.approx(3 * math.log(7), rel=1e-6)


def test_logit_term_is_zero_when_student_equals_teacher():
    hidden, weight = torch.randn(5, 8), torch.randn(11, 8)
    p = torch.softmax(hidden @ weight.T, -1)
    out = loss(hidden, weight, torch.zeros(5, dtype=torch.long), all_targets(p), kl=1.0)
    assert out.logits.item() == pytest.approx(0, abs=1e-5)


def test_logit_term_is_the_kl_worked_out_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    targets = TeacherTargets(torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.25]]), torch.tensor([0.5623351446188083]))
    out = loss(torch.zeros(1, 3), torch.randn(2, 3), torch.tensor([0]), targets, kl=1.0)
    assert out.logits.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gradients_equal_the_dense_computation(temperature):
    torch.manual_seed(0)
    hidden, weight = torch.randn(600, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (600,))
    labels[::7] = -100
    p = torch.softmax(torch.randn(600, 50), -1)
    loss(hidden, weight, labels, all_targets(p), 0.3, 0.7, temperature).total.backward()
    fused = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    z, keep = hidden @ weight.T, labels != -100
    log_q = F.log_softmax(z[keep] / temperature, -1)
    dense = 0.3 * F.cross_entropy(z, labels, reduction="sum")
    dense = dense + 0.7 * temperature**2 * (p[keep] * (p[keep].log() - log_q)).sum()
    dense.backward()
    torch.testing.assert_close(fused[0], hidden.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(fused[1], weight.grad, atol=1e-4, rtol=1e-5)


def test_masked_positions_carry_no_gradient():
    hidden = torch.randn(4, 3, requires_grad=True)
    loss(hidden, torch.randn(5, 3), torch.tensor([1, -100, 2, -100]), lm=1.0).total.backward()
    assert hidden.grad[1].abs().sum() == 0 and hidden.grad[0].abs().sum() > 0


def live_case(student_rows: int, teacher_rows: int, rows: int, tokens: int = 70):
    """Student and teacher of float64, and labels with holes."""
    torch.manual_seed(0)
    hidden = torch.randn(tokens, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(student_rows, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, rows, (tokens,))
    labels[::5] = -100
    teacher_hidden = torch.randn(tokens, 9, dtype=torch.float64)
    head = torch.randn(teacher_rows, 9, dtype=torch.float64)
    return hidden, weight, labels, LiveTeacher(teacher_hidden, head, rows)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_live_signal_is_the_whole_kl_to_the_dot(temperature):
    hidden, weight, labels, teacher = live_case(11, 11, 11)
    out = loss(hidden, weight, labels, teacher, kl=1.0, temperature=temperature)
    keep = labels != -100
    log_p = torch.log_softmax(teacher.hidden_ND[keep] @ teacher.head_VD.T / temperature, -1)
    log_q = torch.log_softmax(hidden[keep] @ weight.T / temperature, -1)
    expected = temperature**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    assert out.logits.item() == pytest.approx(expected.item(), abs=1e-10)
    out.total.backward()
    fused, hidden.grad = hidden.grad, None
    expected.backward()
    torch.testing.assert_close(fused, hidden.grad, atol=1e-12, rtol=1e-9)


def test_the_loss_cannot_tell_a_live_signal_from_the_same_distribution_as_targets():
    hidden, weight, labels, teacher = live_case(11, 11, 11)
    p = torch.softmax(teacher.hidden_ND @ teacher.head_VD.T, -1)
    live, sparse = (loss(hidden, weight, labels, s, 0.1, 0.9) for s in (teacher, all_targets(p)))
    torch.testing.assert_close(live.total, sparse.total)


def test_teacher_rows_that_the_student_lacks_leave_the_rest_renormalised():
    """Teacher (1/2, 1/4 | 1/4), student (1/2, 1/2): its target is (2/3, 1/3), KL = 2/3 ln(4/3) + 1/3 ln(2/3)."""
    teacher = LiveTeacher(torch.ones(1, 1), torch.tensor([[0.5], [0.25], [0.25]]).log(), rows=2)
    out = loss(torch.zeros(1, 3), torch.randn(2, 3), torch.tensor([0]), teacher, kl=1.0)
    assert out.logits.item() == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3), abs=1e-6)


def test_student_rows_that_the_teacher_lacks_cost_what_the_student_puts_there():
    """Teacher (1/2, 1/2), student (1/3, 1/3, 1/3): KL = ln(3/2); padding with zeros would have given it to the teacher too."""
    teacher = LiveTeacher(torch.ones(1, 1), torch.zeros(2, 1), rows=2)
    out = loss(torch.zeros(1, 3), torch.randn(3, 3), torch.tensor([0]), teacher, kl=1.0)
    assert out.logits.item() == pytest.approx(math.log(1.5), abs=1e-6)


def test_more_shared_rows_than_either_has_are_refused():
    with pytest.raises(TrainingError, match="has 5 rows, 6"):
        LiveTeacher(torch.zeros(1, 1), torch.zeros(5, 1), rows=6)
    teacher = LiveTeacher(torch.zeros(1, 1), torch.zeros(5, 1), rows=5)
    with pytest.raises(TrainingError, match="student has 4 rows, 5"):
        loss(torch.zeros(1, 3), torch.randn(4, 3), torch.tensor([0]), teacher, kl=1.0)


@pytest.mark.one_machine  # elsewhere: float32 beside the dense gradient
@pytest.mark.parametrize("rows", [(7, 7, 7), (6, 8, 6), (8, 6, 6)], ids=str)
@pytest.mark.parametrize("signal", ["live", "sparse", "none"])
def test_gradcheck(rows, signal):
    hidden, weight, labels, teacher = live_case(*rows, tokens=40)
    p = torch.softmax(teacher.hidden_ND @ teacher.head_VD[: rows[2]].T / 1.5, -1)
    targets = {"live": teacher, "sparse": all_targets(p), "none": None}[signal]
    assert torch.autograd.gradcheck(lambda h, w: loss(h, w, labels, targets, 0.3, 0.7, 1.5).total, (hidden, weight))


@pytest.mark.parametrize("signal", ["live", "sparse"])
def test_float32_gradient_equals_the_dense_one_within_1e_5(signal):
    """Means per token, as the trainer takes them, at several chunks and a vocabulary of thousands."""
    torch.manual_seed(0)
    hidden = torch.randn(600, 32, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(5000, 32) * 32**-0.5)
    teacher = LiveTeacher(torch.randn(600, 32), torch.randn(5100, 32) * 32**-0.5, rows=5000)
    labels = torch.randint(0, 5000, (600,))
    log_p = torch.log_softmax(teacher.hidden_ND @ teacher.head_VD[:5000].T, -1)
    targets = teacher if signal == "live" else all_targets(log_p.exp())
    (loss(hidden, weight, labels, targets, 0.1, 0.9).total / 600).backward()
    fused = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    z = hidden @ weight.T
    kl = F.kl_div(torch.log_softmax(z, -1), log_p, reduction="sum", log_target=True)
    ((0.1 * F.cross_entropy(z, labels, reduction="sum") + 0.9 * kl) / 600).backward()
    torch.testing.assert_close(fused[0], hidden.grad, atol=1e-5, rtol=0)
    torch.testing.assert_close(fused[1], weight.grad, atol=1e-5, rtol=0)


class Memory(TorchDispatchMode):
    """Bytes of tensors that live at the same time, counted from its own start."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage(), given)
        return out

    def count(self, storage, given):
        key = storage._cdata
        if key in given or key in self.known or not storage.nbytes():
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.free, key, storage.nbytes())

    def free(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.one_machine  # counts bytes
@pytest.mark.parametrize("signal", ["live", "sparse"])
def test_memory_is_a_twentieth_of_the_dense_computation(signal):
    """200 MiB at 4,096 x 32,512 with a head of 64 MiB, in proportion: a head, half a head for its product, chunks."""
    tokens, rows, width = 2048, 8128, 32
    hidden, weight = torch.randn(tokens, width, requires_grad=True), torch.nn.Parameter(torch.randn(rows, width))
    labels = torch.randint(0, rows, (tokens,))
    p = torch.softmax(torch.randn(tokens, 12), -1)
    sparse = TeacherTargets(torch.randint(0, rows, (tokens, 12)), p, torch.zeros(tokens))
    live = LiveTeacher(torch.randn(tokens, width), torch.randn(rows + 64, width), rows)
    with Memory() as memory:
        loss(hidden, weight, labels, {"live": live, "sparse": sparse}[signal], 0.1, 0.9).total.backward()
    dense = 7 * tokens * rows * 4
    assert tokens * rows * 4 / 20 < memory.peak < dense / 20
