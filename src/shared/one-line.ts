/** One line without control characters (which a terminal would obey), other white space as blanks. */
export function oneLine(text: string): string {
  return text
    .replace(/\s+/g, " ")
    .replace(/[\p{Cc}\p{Cf}]/gu, "\uFFFD")
    .trim();
}
