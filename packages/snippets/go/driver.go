package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
)

type question struct {
	Op, Assertion, Action string
	Resource              Entity
	Resources             []Entity
}

func answer(gate *Gate, q question) any {
	caller, err := gate.Caller(q.Assertion)
	switch {
	case err != nil:
		return map[string]any{"error": err.Error()}
	case q.Op == "caller":
		return map[string]any{"subject": caller.Subject}
	case q.Op == "may":
		return map[string]any{"allowed": gate.May(context.Background(), caller, q.Action, q.Resource)}
	default:
		return map[string]any{"allowed": gate.MayEach(context.Background(), caller, q.Action, q.Resources)}
	}
}

func main() {
	gate, err := NewGate(context.Background(), os.Getenv("GATE"), os.Getenv("ISSUER"), os.Getenv("AUDIENCE"))
	if err != nil {
		panic(err)
	}
	lines, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var q question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			panic(err)
		}
		if err := out.Encode(answer(gate, q)); err != nil {
			panic(err)
		}
	}
}
