// The style sheet of a report: light and dark by the reader's own setting, and readable on paper.

package let reportStyle = """
    :root { --page: #fbfbfa; --text: #1c2126; --muted: #5f6b76; --line: #e2e5e8; --source: #2f6fb5; --target: #1b8a6b;
      --failed: #c22f3d; --blackout: #f3e6c8; --blackout-text: #7a5a12; --good: #1b7a55; --card: #ffffff; }
    @media (prefers-color-scheme: dark) {
      :root { --page: #14181c; --text: #e4e8ec; --muted: #97a3ae; --line: #2c343c; --source: #6aa8e8; --target: #4fc3a0;
        --failed: #f0707c; --blackout: #3a3220; --blackout-text: #e3c27a; --good: #5ccb9f; --card: #1b2127; }
    }
    * { box-sizing: border-box; }
    body { margin: 0 auto; max-width: 1040px; padding: 40px 24px 64px; background: var(--page); color: var(--text);
      font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
    h1 { margin: 4px 0 20px; font-size: 30px; font-weight: 600; overflow-wrap: anywhere; }
    h1 .arrow { color: var(--muted); font-weight: 400; }
    h2 { margin: 40px 0 8px; font-size: 17px; font-weight: 600; }
    p { margin: 0 0 8px; }
    code, .id { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; }
    .outcome { font-weight: 600; color: var(--good); }
    .outcome.unchanged, .outcome.needsRecovery { color: var(--failed); }
    .figures { display: flex; flex-wrap: wrap; gap: 12px 40px; margin: 0; }
    .figures dt { color: var(--muted); font-size: 13px; }
    .figures dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums; }
    .failure { margin-top: 28px; padding: 4px 20px 12px; background: var(--card); border: 1px solid var(--line);
      border-left: 4px solid var(--failed); border-radius: 4px; overflow-wrap: anywhere; }
    .failure h2 { margin-top: 12px; }
    .legend { color: var(--muted); font-size: 13px; }
    .key { display: inline-block; width: 12px; height: 12px; margin: 0 6px 0 14px; border-radius: 2px; vertical-align: -1px; }
    .key:first-child { margin-left: 0; }
    .key.source { background: var(--source); } .key.target { background: var(--target); }
    .key.failed { background: var(--failed); } .key.blackout { background: var(--blackout); outline: 1px solid var(--line); }
    .wide { overflow-x: auto; }
    .timeline { display: block; width: 100%; min-width: 760px; font-size: 13px; }
    .timeline text { fill: var(--text); }
    .timeline .name { font-weight: 600; }
    .timeline .action, .timeline .tick { fill: var(--muted); font-size: 12px; }
    .timeline .took { font-size: 12px; font-variant-numeric: tabular-nums; }
    .timeline .took.failed { fill: var(--failed); font-weight: 600; }
    .timeline .blackout-label { fill: var(--blackout-text); font-weight: 600; }
    .timeline .row, .timeline .grid { stroke: var(--line); stroke-width: 1; }
    .timeline .grid { stroke-dasharray: 2 3; }
    .timeline .cut { stroke: var(--page); stroke-width: 10; }
    .timeline rect.blackout { fill: var(--blackout); }
    .timeline .bar.source { fill: var(--source); } .timeline .bar.target { fill: var(--target); }
    .timeline .bar.failed { fill: var(--failed); }
    .timeline .unreached text { fill: var(--muted); opacity: 0.65; }
    table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
    th { text-align: left; color: var(--muted); font-size: 13px; font-weight: 400; }
    th, td { padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
    td:last-child { white-space: normal; }
    th.number, td.number { text-align: right; }
    .particulars { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0; overflow-wrap: anywhere; }
    .particulars dt { color: var(--muted); }
    .particulars dd { margin: 0; }
    @media print { body { padding: 0; } section { break-inside: avoid; } .bar { print-color-adjust: exact; } }

    """
