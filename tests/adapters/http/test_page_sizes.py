"""The page plans the same sizes as the worker."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

from nodejs import require_node
from upscaled_http.page import PAGE_FOLDER
from upscaled_imaging.dimensions import plan_size
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import JobError
from upscaled_protocol.messages import Size

# The page's own module, which needs no browser.
PLAN = """
import { readFileSync } from "node:fs";
import { planFault, planSize } from "./sizes.mjs";
const cases = JSON.parse(readFileSync(0, "utf8"));
const plans = cases.map(([fields, source]) => {
    const plan = planSize(fields, source);
    return {...plan, fault: planFault(plan, source, "esrgan", null)};
});
console.log(JSON.stringify(plans));
"""


def planned_by_the_page(cases: list[Any], folder: Path) -> list[dict[str, Any]]:
    shutil.copy(PAGE_FOLDER / "sizes.js", folder / "sizes.mjs")
    (folder / "plan.mjs").write_text(PLAN)
    done = subprocess.run(
        ["node", folder / "plan.mjs"],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    plans: list[dict[str, Any]] = json.loads(done.stdout)
    return plans


def test_the_page_plans_the_sizes_that_the_worker_plans(tmp_path: Path) -> None:
    require_node()
    dice = random.Random(7)
    cases: list[tuple[dict[str, Any], dict[str, int]]] = []
    for _ in range(400):
        source = {"width": dice.randint(1, 3000), "height": dice.randint(1, 3000)}
        scale = dice.uniform(0.1, 15)
        fields: dict[str, Any] = {"upscale_factor": dice.choice([2, 3.5, 4, round(scale + 1, 2)])}
        kind = dice.randrange(3)
        if kind == 1:
            fields = {f"target_{side}": max(1, int(source[side] * scale)) for side in source}
        elif kind == 2:
            dpi = dice.choice([72, 150, 300])
            inches = {side: source[side] * dice.uniform(0.2, 15) / dpi for side in source}
            fields = {f"target_{side}_inches": value for side, value in inches.items()}
            fields["target_dpi"] = dpi
        if kind and dice.random() < 0.7:
            fields["crop"] = dice.choice(["center", "top", "bottom-left", "right", "none"])
        if kind and dice.random() < 0.3:
            fields.pop(f"target_width{'_inches' if kind == 2 else ''}")
        cases.append((fields, source))
    plans = planned_by_the_page(cases, tmp_path)
    for (fields, source), plan in zip(cases, plans, strict=True):
        config = EsrganConfig.model_validate({"image_path": "x", **fields})
        try:
            wanted = plan_size(
                config, Size(**source), factor=config.upscale_factor or 4, default_dpi=150
            )
        except JobError:
            assert plan["fault"], (fields, source)
            continue
        assert plan["fault"] is None, (fields, source, plan)
        shown = (plan["output"], plan["scaled"], plan["cropX"], plan["cropY"])
        sizes = (wanted.output.model_dump(), wanted.scaled.model_dump())
        assert shown == (*sizes, wanted.crop_x, wanted.crop_y), (fields, source)
