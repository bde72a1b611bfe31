"""Another class boundary than the package's, applied to answers: the wire has no parameter for it. Pure."""

from dataclasses import replace

from batch.dialect import WIRE
from batch.errors import JobError
from batch.layout import PREDICTION
from batch.scoring_client import Answer


def relabelled(answer: Answer, threshold: float) -> Answer:
    """
    The positive class where its probability is above *threshold*, as the server itself decides.

    Raises:
        JobError: the model is not a binary one.
    """
    names = answer.names
    if "POSITIVE_CLASS" not in names or "THRESHOLD" not in names:
        raise JobError("prediction_threshold: only for models with two classes")
    positive, at = names.index("POSITIVE_CLASS"), names.index("THRESHOLD")
    label = at - 1
    target = names[label].removesuffix(PREDICTION)
    negative = WIRE.field(names[1].removeprefix(f"{target}_").removesuffix(PREDICTION))
    text = f"{threshold:.15g}".encode()
    lines = []
    for line in answer.lines:
        cells = WIRE.raw_cells(line)
        cells[label] = cells[positive] if float(cells[0]) > threshold else negative
        cells[at] = text
        lines.append(b",".join(cells))
    return replace(answer, lines=lines)
