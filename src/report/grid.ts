/** Lays text out in columns: the first is left-aligned, the others right-aligned; a row may be one long note. */
export type Row = { readonly cells: readonly string[] } | { readonly name: string; readonly note: string };

export interface Grid {
  readonly head: readonly string[];
  readonly rows: readonly Row[];
}

/** Lines of a grid, head first, without trailing spaces. */
export function layOut(grid: Grid): string[] {
  const tables = [grid.head, ...grid.rows.flatMap((row) => ("cells" in row ? [row.cells] : []))];
  const names = grid.rows.map((row) => ("cells" in row ? (row.cells[0] ?? "") : row.name));
  const widths = grid.head.map((_, column) =>
    Math.max(...tables.map((cells) => (cells[column] ?? "").length)),
  );
  widths[0] = Math.max(widths[0] ?? 0, ...names.map((name) => name.length));
  const line = (cells: readonly string[]): string =>
    cells
      .map((text, column) =>
        column === 0 ? text.padEnd(widths[0] ?? 0) : text.padStart(widths[column] ?? 0),
      )
      .join("  ")
      .trimEnd();
  return [
    line(grid.head),
    ...grid.rows.map((row) =>
      "cells" in row ? line(row.cells) : `${row.name.padEnd(widths[0] ?? 0)}  ${row.note}`,
    ),
  ];
}
