"""Known vulnerabilities of what is installed: python -m tools.audit

Asks pip-audit (https://github.com/pypa/pip-audit), which needs PyPI's own data. Where that cannot
be reached, it says so and ends well: nothing was looked at. It fails if a vulnerability is known
that a newer release mends.
"""

import json
import subprocess
import sys

COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--format", "json"),
    *("--progress-spinner", "off", "--timeout", "15"),
)
SECONDS = 300


def report(answer: str) -> tuple[list[str], int]:
    """Lines to print and the exit code, of pip-audit's JSON (empty if it gave none)."""
    packages = json.loads(answer)["dependencies"] if answer.strip() else []
    audited = [package for package in packages if "vulns" in package]
    if not audited:
        return ["audit: the data of vulnerabilities cannot be reached here, nothing was audited"], 0

    lines, mended = [], 0
    for package in audited:
        for found in package["vulns"]:
            mends = ", ".join(found["fix_versions"])
            mended += bool(mends)
            advice = f"mended in {mends}" if mends else "no release mends it yet"
            lines.append(f"  {package['name']} {package['version']}: {found['id']}, {advice}")
    skipped = f", {len(packages) - len(audited)} not known there" * (len(packages) > len(audited))
    lines.append(f"audit: {len(audited)} packages audited{skipped}, {len(lines)} vulnerabilities")
    return lines, 1 if mended else 0


def main() -> int:
    try:
        run = subprocess.run(COMMAND, capture_output=True, text=True, timeout=SECONDS, check=False)
        answer = run.stdout
    except subprocess.TimeoutExpired:
        answer = ""
    lines, code = report(answer)
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
