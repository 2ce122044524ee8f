"""One session of a run: the clean pass and every stage at every radius, on what is still unbroken and unfinished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, tee

import numpy as np
import torch
from torch import Tensor

from holdfast import keys
from holdfast.ascent import engine
from holdfast.ascent.acceleration import Acceleration, accelerated
from holdfast.ascent.attack import ranking
from holdfast.ascent.backward import Backward
from holdfast.ascent.engine import NOT_FINITE, Hunt
from holdfast.ascent.halves import halves, told
from holdfast.ascent.meter import Classifier, Meter
from holdfast.ascent.room import PROBED, slots_for
from holdfast.ascent.search_copy import search_copy
from holdfast.ascent.verdict import Verdict
from holdfast.ascent.views import Expectation
from holdfast.audit.entry import Past
from holdfast.audit.faults import Failures, few
from holdfast.audit.feed import SourceFeed, tensors
from holdfast.audit.forecast import Forecast, Left
from holdfast.audit.plan import Plan, Stage
from holdfast.audit.postflight import changed, cramped
from holdfast.audit.preflight import logarithmic
from holdfast.audit.ranks import CHUNK, Ranks, shares
from holdfast.audit.recorded import ended, point, recorded
from holdfast.data.ahead import Ahead
from holdfast.data.source import Source
from holdfast.losses import margin
from holdfast.models.model import Model
from holdfast.records.known import Outcome
from holdfast.records.schema import CLEAN, Failure, Finding, Record
from holdfast.records.shard import Shard
from holdfast.records.store import Store
from holdfast.threats.threat import Threat

LOOKS = 10
"""How often in a stage the forecast of what is left looks at the margins that became known."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Args:
        stage, eps: what is running.
        done, total: samples with a verdict, of those that entered the stage.
        robust: samples that nothing has broken yet at this radius; all: samples of the run.
        seconds: wall time of this session so far.
        eta: seconds left, as a range (None before anything was measured).
    """

    stage: str
    eps: float
    done: int
    total: int
    robust: int
    all: int
    seconds: float
    eta: Left | None


Watcher = Callable[[Progress], None]


class Session:
    """The work of a run from where its store stands to its end."""

    def __init__(
        self,
        model: Model,
        source: Source,
        store: Store | Shard,
        *,
        threat: Threat,
        plan: Plan,
        slots: int | None,
        watch: Watcher | None,
        ranks: Ranks,
        acceleration: Acceleration,
    ) -> None:
        sample, first = few(model, source)
        module = model.module
        self.model = model
        self.source = source
        self.ahead = Ahead(source)
        self.store = store
        self.threat = threat
        self.plan = plan
        self.watch = watch
        self.ranks = ranks
        self._turn = 0
        self._reached: list[Outcome] = []
        self.failed = Failures(len(source))
        self._through = 0
        self.draws = plan.draws
        self._intended = slots or engine.default_slots(sample)
        self.slots = slots or slots_for(self._averaged(module).classifier, sample, processes=ranks.world)
        self._dealt = ranks.world * min(ranks.gather(self.slots))
        self.copies = accelerated(
            search_copy(module, sample).module,
            sample,
            acceleration,
            size=min(self.slots, len(source)),
            view=partial(logarithmic, findings=store.info.findings),
        )
        self.original = self._averaged(logarithmic(module, store.info.findings))
        self._searched: dict[tuple[str, str, Backward | None], Meter] = {}
        self._sample, self._first = sample, first
        self.asked = (2 if self.draws == 1 else 1) * len(sample) + (0 if slots else PROBED * self.draws)
        """Evaluations of the check whether the model stays what it is, and of the one how many fit into memory."""
        self.began = time.monotonic()
        self._forecast = Forecast(
            plan,
            threat,
            classes=model.classes,
            radii=len(store.info.curve),
            n=len(source),
            world=ranks.world,
        )
        self._hunt: Hunt | None = None
        self.discarded = 0
        """Evaluations spent on searches that ran ahead of a success and were dropped."""

    def run(self) -> None:
        """Everything that is not recorded yet."""
        with self.ahead:
            self.clean()
            for eps in self.store.info.curve:
                for stage in self.plan.stages:
                    self.stage(stage, self.threat.resized(eps))

    def clean(self) -> None:
        """The clean pass: one forward per sample, of the classifier itself."""
        known = self.store.judged(CLEAN, 0.0)
        ids = np.setdiff1d(self.source.ids, known.ids)
        done, broken = len(known), len(self.store.broken)
        tally = self._tally(CLEAN, 0.0, done, len(self.source), broken)

        def fail(sample: int, happened: str) -> None:
            self._fail(Failure(id=sample, stage=CLEAN, eps=0.0, happened=happened, label=self._label(sample)))
            tally(1, 1)

        for part, y, logits in self._answers(ids[self.ranks.rank :: self.ranks.world], fail):
            value = margin(logits, y, torch.full_like(y, -1))
            columns = (part, y, logits.argmax(1), value, ranking(logits, y))
            for sample, label, predicted, lead, ranks in zip(*(column.tolist() for column in columns)):
                record = Record(
                    id=sample,
                    stage=CLEAN,
                    eps=0.0,
                    label=label,
                    fooled=predicted != label,
                    predicted=predicted,
                    margin=-lead,
                    value=lead,
                    distance=0.0,
                    steps=0,
                    forwards=self.draws,
                    backwards=0,
                    ranking=tuple(ranks),
                )
                self._append(record)
            wrong = int((logits.argmax(1) != y).sum())
            self._forecast.judge(len(part), wrong, self.draws * len(part))
            tally(len(part), wrong)
        self._agree()
        tally(0, 0)

    def _answers(
        self, ids: np.ndarray, fail: Callable[[int, str], None]
    ) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """The samples' ids, labels and logits, batch by batch, without those that ``fail``."""

        def answered(part: np.ndarray) -> tuple[np.ndarray, Tensor, Tensor]:
            x, y = tensors(self.ahead, part, dtype=self.model.dtype, device=self.model.device)
            with torch.no_grad():
                return part, y, self.original(x)

        def in_halves(batch: np.ndarray) -> list[tuple[np.ndarray, Tensor, Tensor]]:
            failed = lambda place, error: fail(int(batch[place]), told(error))  # noqa: E731
            tried = halves(lambda at: answered(batch[at]), len(batch), self.slots, failed)
            self.slots = tried.most
            return tried.parts

        self.ahead.expect(ids)
        while len(ids):
            batch, ids = ids[: self.slots], ids[self.slots :]
            for part, y, logits in in_halves(batch):
                finite = torch.isfinite(logits).all(1)
                for sample in part[~finite.cpu().numpy()].tolist():
                    fail(sample, NOT_FINITE)
                yield part[finite.cpu().numpy()], y[finite], logits[finite]

    def stage(self, stage: Stage, threat: Threat) -> None:
        """One stage at one radius, on the samples that nothing has broken yet and that its rule lets in.

        A minimal attack answers for all radii at once: it runs in the first one's turn, and searches in the largest.
        """
        if stage.attack.goal == "minimal":
            if threat.eps != min(self.store.info.curve):
                return
            threat = threat.resized(max(self.store.info.curve))
        eps = threat.eps
        judged = self.store.judged(stage.name, eps)
        past = self.past(stage, eps)
        ids = past.ids[stage.entry(past)]
        ids = np.setdiff1d(ids, [*judged.ids, *self.failed])
        entered = len(ids) + len(judged)
        broken = self.store.broken_within(eps)
        fallen = {*broken, *self.failed.within(eps)}
        self._hunt = None
        self._forecast.begin(stage.name, past, entered=entered, made=self._made())
        tally = self._tally(stage.name, eps, len(judged), entered, len(fallen))
        if not len(ids):
            return
        stood = ~np.isin(ids, broken)
        ranks = torch.from_numpy(self.store.ranking.at(ids))

        def fail(position: int, happened: str) -> None:
            since = min(self.store.info.curve) if stage.attack.goal == "minimal" else eps
            self._fail(Failure(id=int(ids[position]), stage=stage.name, eps=since, happened=happened))
            tally(1, int(stood[position]))

        self._hunt = hunt = Hunt(
            attack=stage.attack,
            threat=threat,
            targets=stage.attack.searches(ranks),
            model=self.searched(stage),
            original=self.original,
            slots=self.slots,
            stage=keys.number(f"{stage.name} at {eps!r}"),
            failed=fail,
        )
        feed = SourceFeed.of(
            self.ahead, ids, seed=self.store.info.seed, dtype=self.model.dtype, device=self.model.device
        )
        searched = self.store.searches(stage.name, eps)
        begun = np.flatnonzero(np.isin(ids, [record.id for record in searched]))
        order = np.concatenate([begun, np.setdiff1d(np.arange(len(ids)), begun)])
        fixed = max(len(begun), self._dealt)
        own, chunks = shares(order, fixed, self.ranks, f"taken {self._turn}")
        place = {int(ids[position]): int(position) for position in np.intersect1d(begun, own)}
        before = [ended(record, place[record.id]) for record in searched if record.id in place]
        self._forecast.judge(0, 0, -sum(each.forwards + each.backwards for each in before))
        portions, coming = tee(portion.tolist() for portion in chain([own], chunks))
        places = engine.breadth_first(coming, hunt.targets.shape[1])
        self.ahead.expect(
            (sample for position, _ in places if (sample := int(ids[position])) not in judged),
            most=CHUNK if self.ranks.world > 1 else None,  # what is expected is taken, and no other process can have it
        )
        learnt = len(judged)
        for event in hunt.events(feed, before=before, portions=portions):
            final, sample = isinstance(event, Verdict), int(ids[event.position])
            self._append(recorded(event, sample, stage.name, eps), point(event))
            if final:
                fell = int(event.fooled and stood[event.position])
                self._forecast.judge(1, fell, event.forwards + event.backwards)
                if self.watch and not past.seen and len(judged) >= learnt + entered / LOOKS:
                    self._forecast.learn(self._known(stage, eps, ids))
                    learnt = len(judged)
                tally(1, fell)
        self.slots = hunt.slots
        self.discarded += self._forecast.uncharged(self._made())
        self._agree()
        tally(0, 0)

    def past(self, stage: Stage | None, eps: float) -> Past:
        """What was known when that stage began at that radius, of which some searches may have ended; None: at the end."""
        clean = self.store.margins[CLEAN, 0.0]
        judged = self.store.judged(stage.name, eps).ids if stage else ()
        lost = self.store.broken.ids[self.store.broken.numbers <= 0]
        ids = np.setdiff1d(clean.ids, lost)  # a sample that failed has no clean margin
        fallen = [*self.store.broken_within(eps), *self.failed]
        seen = {}
        for earlier in self.plan.stages:
            if stage and earlier.name == stage.name:
                break
            seen[earlier.name] = self.store.judged(earlier.name, eps).at(ids)
        return Past(
            ids=ids,
            alive=~np.isin(ids, fallen) | np.isin(ids, judged),
            clean=clean.at(ids),
            seen=seen,
            seed=self.store.info.seed,
            doubts=frozenset(finding.check for finding in self.store.info.findings),
        )

    def _known(self, stage: Stage, eps: float, ids: np.ndarray) -> Past:
        """What is known after a stage that runs, of the samples that wait for no verdict of it."""
        following = self.plan.stages.index(stage) + 1
        past = self.past(self.plan.stages[following] if following < len(self.plan.stages) else None, eps)
        return past.only(~np.isin(past.ids, np.setdiff1d(ids, self.store.judged(stage.name, eps).ids)))

    def searched(self, stage: Stage) -> Meter:
        """What a stage's searches evaluate."""
        kind = stage.attack.goal, stage.attack.needs, stage.backward
        if kind not in self._searched:
            self._searched[kind] = self._averaged(self.copies.classifier(stage.attack, stage.backward))
        return self._searched[kind]

    def _averaged(self, classifier: Classifier) -> Meter:
        return Meter(Expectation(classifier, self.draws) if self.draws > 1 else classifier, cost=self.draws)

    def conditions(self) -> tuple[Finding, ...]:
        """What became of the model, and of the memory, while it went on."""
        shifting = changed(self.model, self._sample, self._first) if self.draws == 1 else ()
        return shifting + cramped(self._intended, self.slots)

    def _fail(self, failure: Failure) -> None:
        self.failed[failure.id] = failure
        self.failed.check(self._through + self.slots)

    def _label(self, sample: int) -> int | None:
        try:
            return int(self.source.take([sample]).labels[0])
        except Exception:  # a foreign data set may raise anything
            return None

    def _made(self) -> int:
        return self.original.forwards + sum(meter.forwards + meter.backwards for meter in self._searched.values())

    def _append(self, record: Record, point: np.ndarray | None = None) -> None:
        self.store.append(record, point)
        self._through += record.final
        if record.final and self.ranks.world > 1:
            self._reached.append(Outcome.of(record))

    def _agree(self) -> None:
        """The end of a stage: every process learns what the others found, and the first takes over what they wrote."""
        self._turn += 1
        self._through = 0
        if self.ranks.world == 1:
            return
        every = self.ranks.gather((self.store.hand_over(), self._reached, list(self.failed.values()), self.slots))
        self._reached = []
        others = [each for rank, each in enumerate(every) if rank != self.ranks.rank]
        names = [name for name, *_ in others if name is not None]
        self.store.take_over(names, [outcome for _, outcomes, *_ in others for outcome in outcomes])
        self.failed |= {failure.id: failure for _, _, failures, _ in others for failure in failures}
        self.failed.check(len(self.source))
        self._dealt = self.ranks.world * min(slots for *_, slots in every)

    def _tally(self, stage: str, eps: float, done: int, total: int, broken: int) -> Callable[[int, int], None]:
        """Counts over all processes from here, and reports; what it returns takes the samples judged and broken since."""
        turn, last = self._turn, done

        def tally(judged: int, fell: int) -> None:
            nonlocal last
            fallen = broken + self.ranks.add(f"broken {turn}", fell)
            now = done + self.ranks.add(f"judged {turn}", judged)
            if now > last:
                self._report(stage, eps, now, total, fallen)
            last = now

        self._report(stage, eps, done, total, broken)
        return tally

    def _report(self, stage: str, eps: float, done: int, total: int, broken: int) -> None:
        if self.watch is None:
            return
        seconds, standing = time.monotonic() - self.began, len(self.source) - broken
        made, begun = self._made(), self._hunt.begun if self._hunt else None
        eta = None
        if made:
            pace = seconds / (made * self.ranks.world)
            left = self._forecast.left(total - done, standing, begun=begun, made=made)
            eta = Left(pace * left.least, pace * left.most)
        self.watch(Progress(stage, eps, done, total, standing, len(self.source), seconds, eta))
