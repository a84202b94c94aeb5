"""Whatever is wrapped around a network, every entry point sees it in evaluation mode and gives it back as it was."""

from __future__ import annotations

import copy
import functools
import gc
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import omnirobust as orb
from omnirobust import evaluation
from omnirobust.attacks import adapters
from omnirobust.attacks.universal import learn_universal
from omnirobust.domains import frozen
from omnirobust.domains.behind import reached
from omnirobust.domains.classifier import Classifier

Call = Callable[[Tensor], Tensor]
GLOBAL: Any = None
TABLE: dict[str, Any] = {}


def network() -> nn.Sequential:
    """A small network whose answers differ a lot between modes, in training mode but for one module."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 3)
    )
    net.get_buffer("1.running_mean").fill_(0.3)
    net.get_parameter("5.weight").requires_grad_(False)
    net.train()
    net[2].eval()
    return net


@dataclass
class Data:
    """A dataclass around a network."""

    nets: dict[str, list[nn.Module]]
    others: tuple[int, ...] = field(default=(1, 2))

    def __call__(self, v: Tensor) -> Tensor:
        """Ask the network."""
        return self.nets["all"][0](v)

    def ask(self, v: Tensor) -> Tensor:
        """Ask the network."""
        return self(v)


class Slots:
    """An object without a ``__dict__``."""

    __slots__ = ("empty", "net")

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, v: Tensor) -> Tensor:
        """Ask the network."""
        return self.net(v)


class Shy:
    """An object that must not be asked for anything while it is looked through."""

    def __init__(self, net: nn.Module) -> None:
        self._net, self.me, self.asked = net, self, 0

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        raise AttributeError(name)

    @property
    def costly(self) -> Any:
        """Count."""
        self.asked += 1
        return self.asked

    def __call__(self, v: Tensor) -> Tensor:
        """Ask the network."""
        return self._net(v)


class Shared:
    """A class that holds the network itself."""

    net: Any = None

    @classmethod
    def ask(cls, v: Tensor) -> Tensor:
        """Ask the network."""
        return cls.net(v)


class Uses(nn.Module):
    """A module whose code names a global."""

    def forward(self, v: Tensor) -> Tensor:
        """Ask the network."""
        return self.again(v)

    def again(self, v: Tensor) -> Tensor:
        """Ask the network."""
        return GLOBAL(v)


class Unregistered(nn.Module):
    """A module that keeps networks where ``modules()`` does not look."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.nets = [net]

    def forward(self, v: Tensor) -> Tensor:
        """Ask the network."""
        return self.nets[0](v)


def through(net: nn.Module, v: Tensor, *, scale: float = 1.0) -> Tensor:
    return net(v * scale)


def decorated(net: nn.Module) -> Call:
    def doubled(function: Call) -> Call:
        @functools.wraps(function)
        def wrapper(v: Tensor) -> Tensor:
            return function(v)

        return wrapper

    @doubled
    @torch.enable_grad()
    def ask(v: Tensor) -> Tensor:
        return net(v)

    return ask


def by_global(net: nn.Module) -> Call:
    global GLOBAL
    GLOBAL = net
    return lambda v: (lambda u: GLOBAL(u))(v)


def by_table(net: nn.Module) -> Call:
    TABLE["net"] = net
    return lambda v: TABLE["net"](v)


def by_name(net: nn.Module) -> Call:
    by_global(net)
    return lambda v: globals()["GLOBAL"](v)


def by_module(net: nn.Module) -> Call:
    nets, sub = types.ModuleType("nets_for_test"), types.ModuleType("nets_for_test.sub")
    nets.sub, sub.model = sub, net  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["nets_for_test"] = nets
    return lambda v: nets.sub.model(v)  # pyright: ignore[reportAttributeAccessIssue]


def by_import(net: nn.Module) -> Call:
    by_module(net)

    def ask(v: Tensor) -> Tensor:
        import nets_for_test  # pyright: ignore[reportMissingImports]

        return nets_for_test.sub.model(v)

    return ask


def by_class(net: nn.Module) -> Call:
    Shared.net = net
    return Shared.ask


def by_uses(net: nn.Module) -> Call:
    by_global(net)
    return Uses()


def by_default(net: nn.Module) -> Call:
    def ask(v: Tensor, model: nn.Module = net) -> Tensor:
        return model(v)

    return ask


def by_keyword(net: nn.Module) -> Call:
    def ask(v: Tensor, *, model: nn.Module = net) -> Tensor:
        return model(v)

    return ask


def by_attribute(net: nn.Module) -> Call:
    def ask(v: Tensor) -> Tensor:
        return ask.net(v)  # pyright: ignore[reportFunctionMemberAccess]

    ask.net = net  # pyright: ignore[reportFunctionMemberAccess]
    return ask


def by_weakref(net: nn.Module) -> Call:
    ref = weakref.ref(net)
    return lambda v: ref()(v)  # pyright: ignore[reportOptionalCall]


def by_cache(net: nn.Module) -> Call:
    @functools.lru_cache(maxsize=4)
    def loaded(name: str) -> nn.Module:
        return net

    loaded("a")
    return lambda v: loaded("a")(v)


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "itself": lambda net: net,
    "lambda": lambda net: lambda v: net(v),
    "bound method": lambda net: net.forward,
    "partial": lambda net: functools.partial(through, net),
    "nested partials": lambda net: functools.partial(functools.partial(through, net), scale=1.0),
    "partial of a method": lambda net: functools.partial(Data({"all": [net]}).ask),
    "dataclass": lambda net: Data({"all": [net]}),
    "method of an object in a list": lambda net: [Data({"all": [net]})][0].ask,
    "closure over containers": lambda net: lambda v, held=({"a": [(net,)]},): held[0]["a"][0][0](v),
    "closure over a deque": lambda net: lambda v, held=deque([net]): held[0](v),
    "slots": Slots,
    "an object that watches": Shy,
    "class attribute": by_class,
    "decorated": decorated,
    "global": by_global,
    "global table": by_table,
    "global by name": by_name,
    "attribute of a module": by_module,
    "imported inside": by_import,
    "global of a module's code": by_uses,
    "unregistered children": Unregistered,
    "default": by_default,
    "keyword default": by_keyword,
    "function attribute": by_attribute,
    "weak reference": by_weakref,
    "cache": by_cache,
    "generator of methods": lambda net: types.MethodType(lambda self, v: self["net"](v), {"net": net}),
    "no_grad's wrapper": lambda net: torch.enable_grad()(lambda v: net(v)),
    "script": torch.jit.script,
}


def state(net: nn.Module) -> tuple[list[bool], list[bool], dict[str, Tensor]]:
    values = {name: value.detach().clone() for name, value in net.state_dict().items()}
    return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()], values


def same(a: Any, b: Any) -> bool:
    return a[:2] == b[:2] and all(torch.equal(value, b[2][name]) for name, value in a[2].items())


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(8, 1, 6, 6), torch.arange(8) % 3


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_call_is_one_in_evaluation_mode_and_leaves_no_trace(name, inputs):
    x, _ = inputs
    net = network()
    expected = network().eval()(x)
    model = WRAPPERS[name](net)
    before = state(net)
    found = Classifier("m", model)(x)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad and same(state(net), before)
    assert vars(model)["asked"] == 0 if isinstance(model, Shy) else True


LINF = orb.Linf(0.2)
ENTRIES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "attack_ensemble": lambda m, x, y: orb.attack_ensemble([m, m], x, y, LINF, steps=3).delta,
    "attack_transforms": lambda m, x, y: orb.attack_transforms(
        m, x, y, {"ori": lambda v: v, "flip": lambda v: v.flip(-1)}, LINF, steps=2
    ).delta,
    "attack_universal": lambda m, x, y: orb.attack_universal(
        m, x.unflatten(0, (2, 4)), y.unflatten(0, (2, 4)), LINF, steps=2
    ).delta,
    "attack_product": lambda m, x, y: orb.attack_product({"m": m}, x, y, LINF, steps=2).delta,
    "evaluate_robustness": lambda m, x, y: evaluation.evaluate_robustness(
        m, x, y, LINF, steps=2, attacks=evaluation.STRONG[:1]
    ).margin,
    "minimal_eps": lambda m, x, y: evaluation.minimal_eps(m, x, y, "linf", steps=2, resolution=0.3).distortion,
    "minimal_l2": lambda m, x, y: evaluation.minimal_l2(m, x, y, steps=3, binary_steps=2).delta,
    "learn_universal": lambda m, x, y: learn_universal(m, x, y, LINF, epochs=1, batch_size=4).delta,
    "AttackModule": lambda m, x, y: adapters.AttackModule(
        {"m": m}, LINF, functools.partial(orb.attack_ensemble, steps=2)
    )(x, y),
    "robustness_curve": lambda m, x, y: torch.tensor(evaluation.robustness_curve(
        m, x, y, orb.Linf, [0.1, 0.2], steps=2, attacks=evaluation.STRONG[:1]
    ).union),
    "functions": lambda m, x, y: orb.solve(
        orb.FunctionDomains({"f": lambda delta, rows: orb.losses.margin(m(x[rows] + delta), y[rows])}),
        LINF.around(x), orb.Uniform(), steps=2, step_size=0.05, direction=orb.Sign(), init=torch.zeros_like(x),
    ).delta,
}  # fmt: skip


@pytest.mark.parametrize("name", ["itself", "lambda", "dataclass", "nested partials", "global table", "decorated"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_sees_evaluation_mode(entry, name, inputs):
    expected = ENTRIES[entry](network().eval(), *inputs)
    net = network()
    model, before = WRAPPERS[name](net), state(net)
    found = ENTRIES[entry](model, *inputs)
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), atol=1e-5, rtol=1e-4)
    assert same(state(net), before)


def test_what_is_installed_is_looked_up_but_not_read():
    """Members of installed packages are found where code names them; their functions' code is not followed."""

    def ask(v: Tensor) -> Tensor:
        return package.model(v) + package.helper(v)  # pyright: ignore[reportAttributeAccessIssue]

    package, hidden = types.ModuleType("installed_for_test"), network()
    package.__file__ = "/usr/lib/site-packages/installed_for_test/__init__.py"
    package.model = network()  # pyright: ignore[reportAttributeAccessIssue]
    package.hidden = hidden  # pyright: ignore[reportAttributeAccessIssue]
    exec("def helper(v): return hidden(v)", package.__dict__)
    sys.modules["installed_for_test"] = package
    modules = reached(ask).modules
    assert package.model in modules and hidden not in modules


def test_what_a_first_call_builds_is_caught(inputs):
    x, _ = inputs
    made: list[nn.Module] = []

    @functools.cache
    def loaded() -> nn.Module:
        made.append(network())
        return made[-1]

    for model in (lambda v: loaded()(v), lambda v: loaded().forward(v)):
        loaded.cache_clear()
        classifier = Classifier("m", model)
        for _ in range(2):
            torch.testing.assert_close(classifier(x), network().eval()(x))
            assert same(state(made[-1]), state(network()))
    assert len(made) == 2


def built_anew(v: Tensor) -> Tensor:
    net = network()
    net.load_state_dict(TRAINED)
    return net(v)


def copied_into_training(v: Tensor) -> Tensor:
    return copy.deepcopy(KEPT).train()(v)


class Builder(nn.Module):
    """A module that builds what it calls, within another that it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Identity()

    def forward(self, v: Tensor) -> Tensor:
        """Ask a new network."""
        return built_anew(self.first(v))


TRAINED = network().state_dict()
KEPT = network()


@pytest.mark.parametrize("model", [built_anew, copied_into_training, Builder()])
def test_what_every_call_builds_is_in_evaluation_mode_every_time(model, inputs):
    x, y = inputs
    plain = network().eval()
    classifier = Classifier("m", model)
    for v in (x, x, x[:3], x):
        torch.testing.assert_close(classifier(v), plain(v))
    assert len(classifier.held.modules) <= 8 and len(classifier.held.parameters) <= 12  # nothing piles up
    settings: dict[str, Any] = {"steps": 3, "restarts": 2}
    found, true = (orb.attack_ensemble({"m": m}, x, y, orb.Linf(0.2), **settings) for m in (model, plain))
    torch.testing.assert_close(found.delta, true.delta)
    assert torch.equal(found.fooled, true.fooled) and not any("is random" in note for note in found.notes)
    judged = [evaluation.evaluate_robustness(m, x, y, orb.Linf(0.2), steps=3) for m in (model, plain)]
    assert torch.equal(judged[0].correct, judged[1].correct)


def test_what_is_built_for_one_shape_of_inputs_is_caught_then(inputs):
    x, _ = inputs
    made: dict[int, nn.Module] = {}

    def model(v: Tensor) -> Tensor:
        return made.setdefault(len(v), network())(v)

    classifier = Classifier("m", model)
    for v in (x, x, x, x[:5], x[:5], x):
        torch.testing.assert_close(classifier(v), network().eval()(v))
    assert all(same(state(net), state(network())) for net in made.values())


def test_calls_are_watched_until_one_brings_nothing(inputs, monkeypatch):
    x, _ = inputs
    watched: list[object] = []
    register = frozen.register_module_forward_pre_hook
    monkeypatch.setattr(frozen, "register_module_forward_pre_hook", lambda hook: watched.append(hook) or register(hook))
    net = network()
    for model, times in ((net, 1), (lambda v: net(v), 2), (built_anew, 5)):
        watched.clear()
        classifier = Classifier("m", model)
        for v in (x, x, x[:3], x[:3], x):
            classifier(v)
        assert len(watched) == times


def test_cycles_and_large_containers_end():
    ring: list[Any] = [network()]
    ring += [ring, {"ring": ring}, list(range(100_000))]
    assert len(reached(lambda v: ring[0](v)).modules) == 7


def test_a_search_leaves_no_class_behind_that_holds_a_network() -> None:
    left = []
    for _ in range(3):
        net = network()
        net.kept = type("Text", (str,), {"net": net})("text")  # pyright: ignore[reportArgumentType]
        net.seen = type("Seen", (Tensor,), {"net": net})([1.0])  # pyright: ignore[reportCallIssue]
        assert net in reached(lambda v, net=net: net(v)).modules
        left.append(weakref.ref(net))
        del net
    gc.collect()
    assert [ref() for ref in left] == [None] * 3


def test_classes_of_texts_need_no_hash() -> None:
    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            raise AssertionError("the user's code was called")

        __hash__ = None  # pyright: ignore[reportAssignmentType]

    class Text(str, metaclass=Meta):
        __slots__ = ()

    net = network()
    net.text, net.texts = Text("text"), [Text("other")]  # pyright: ignore[reportArgumentType]
    assert len(reached(net).modules) == 7
