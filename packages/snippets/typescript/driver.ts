import { createInterface } from "node:readline";
import { caller, may, mayEach, type Entity } from "./gate.js";

type Question = { op: string; assertion: string; action: string; resource: Entity; resources: Entity[] };

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line) as Question;
  let answer: unknown;
  try {
    const who = await caller(question.assertion);
    if (question.op === "caller") answer = { subject: who.sub };
    else if (question.op === "may") answer = { allowed: await may(who, question.action, question.resource) };
    else answer = { allowed: await mayEach(who, question.action, question.resources) };
  } catch (error) {
    answer = { error: String(error) };
  }
  console.log(JSON.stringify(answer));
}
