"""A linear probe as a page: its tables, and the curve over the number of examples."""

import numpy as np

from chiasm.evaluate.linear_probe.run import Probed
from chiasm.report.charts import Chart, Curve, line_chart
from chiasm.report.html import Markup, element, said
from chiasm.report.page import document
from chiasm.report.tables import scores_section


def probe_chart(probed: Probed) -> Chart:
    """Accuracy over the number of examples a class, with the zero-shot and the whole set's as level lines."""
    ends = [float(k) for k in probed.shots]
    curves = [Curve("few shots, mean of draws", [(k, float(np.mean(v))) for k, v in probed.shots.items()])]
    if probed.zero_shot is not None:
        curves.append(Curve("zero-shot", [(end, probed.zero_shot.value) for end in ends]))
    curves.append(Curve("all examples", [(end, probed.scores["acc1"].value) for end in ends]))
    return Chart(f"Accuracy on {probed.split}", curves, log_x=True, is_share=True, x_label="shots")


def probe_page(probed: Probed, run: str) -> Markup:
    """The tables and the curve as a page that needs no network; `run` names what was probed."""
    counted, shots = probed.counts, probed.shot_rows()
    made = f"{counted['fitted']} images fitted, {counted['choosing']} chose the weight decay ({probed.decay:g}), "
    made += f"{counted['measured']} of the split “{probed.split}” measured; {len(probed.classes)} classes."
    words = [element("p", "chiasm · ", element("code", "probe"), class_="brand"), said(f"Probe of {run}", "h1")]
    header = element("header", *words, said(made, "p", "lead"))
    curve = element("div", line_chart(probe_chart(probed)), class_="charts") if probed.shots else None
    rows = scores_section("Zero and few shots (n: images, and draws)", shots) if shots else None
    return document(f"Probe of {run}", header, [scores_section("Linear probe", probed.rows()), rows, curve])
