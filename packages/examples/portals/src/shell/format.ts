// Money and times for people.

/** An amount in cents. */
export const money = (cents: number, currency: string): string =>
  new Intl.NumberFormat("en", { style: "currency", currency }).format(cents / 100);

/** A time of the gate or the shop; the text itself if it is none. */
export function moment(text: string | number): string {
  const date = new Date(typeof text === "number" ? text * 1000 : text);
  if (Number.isNaN(date.getTime())) return String(text);
  return new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium" }).format(date);
}
