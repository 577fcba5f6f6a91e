// The small environments that run in the browser. Their rules are those of rl_transformer.environments, and a test holds
// both to the same steps; the rooms come from Python, in play.json.

// A generator of numbers in [0, 1) from a seed (mulberry32, public domain).
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const MOVES = [[-1, 0], [1, 0], [0, -1], [0, 1]]; // north, south, west, east
const COLORS = { floor: "#ebebeb", wall: "#3c4048", open: "#3ca05a", closed: "#966428", key: "#f0be28", player: "#285ac8" };

function cells(room, symbol) {
  return room.flatMap((line, row) => [...line].flatMap((found, column) => (found === symbol ? [[row, column]] : [])));
}

export class KeyToDoor {
  constructor({ rooms, phase_steps: phaseSteps }) {
    Object.assign(this, { rooms, phaseSteps, length: rooms.length * phaseSteps });
  }

  reset(random) {
    const draw = (symbol) => {
      const places = cells(this.rooms[0], symbol);
      return places[Math.floor(random() * places.length)];
    };
    return this.resetTo({ player: draw("+"), key: draw("k") });
  }

  resetTo({ player, key }) {
    Object.assign(this, { steps: 0, player, key, hasKey: false });
    return this.observe();
  }

  step(action) {
    const room = this.rooms[Math.floor(this.steps / this.phaseSteps)];
    const row = this.player[0] + MOVES[action][0];
    const column = this.player[1] + MOVES[action][1];
    const symbol = room[row]?.[column];
    let reward = 0;
    if (symbol === "d" && this.hasKey) {
      reward = 1;
      this.hasKey = false;
      this.player = [row, column];
    } else if (symbol !== undefined && !"#d".includes(symbol)) {
      this.player = [row, column];
    }
    if (room === this.rooms[0] && this.player[0] === this.key[0] && this.player[1] === this.key[1]) this.hasKey = true;
    this.steps += 1;
    const over = this.steps === this.length;
    if (this.steps % this.phaseSteps === 0 && !over) {
      this.player = cells(this.rooms[this.steps / this.phaseSteps], "+")[0];
    }
    return { observation: this.observe(), reward, over };
  }

  get phase() {
    return Math.floor(Math.min(this.steps, this.length - 1) / this.phaseSteps);
  }

  observe() {
    const observation = [0, 0, 0, this.player[0] / 10, this.player[1] / 10, 0, 0, 0];
    observation[this.phase] = 1;
    if (this.phase === 0 && !this.hasKey) observation.splice(5, 3, 1, this.key[0] / 10, this.key[1] / 10);
    return observation;
  }

  draw(canvas) {
    const size = Math.floor(canvas.width / Math.max(...this.rooms.map((room) => room[0].length)));
    const context = canvas.getContext("2d");
    const paint = ([row, column], color) => {
      context.fillStyle = color;
      context.fillRect(column * size, row * size, size, size);
    };
    context.fillStyle = COLORS.floor;
    context.fillRect(0, 0, canvas.width, canvas.height);
    const room = this.rooms[this.phase];
    for (const cell of cells(room, "#")) paint(cell, COLORS.wall);
    for (const cell of cells(room, "d")) paint(cell, this.hasKey ? COLORS.open : COLORS.closed);
    if (this.phase === 0 && !this.hasKey) paint(this.key, COLORS.key);
    paint(this.player, COLORS.player);
  }
}

export class TMaze {
  constructor({ length }) {
    this.length = length;
  }

  reset(random) {
    return this.resetTo({ cue: random() < 0.5 ? 1 : 2 }); // the action that is right: up, down
  }

  resetTo({ cue }) {
    Object.assign(this, { steps: 0, cue, turned: null });
    return this.observe();
  }

  step(action) {
    const atJunction = this.steps === this.length;
    if (atJunction) this.turned = action;
    this.steps += 1;
    return { observation: this.observe(), reward: Number(atJunction && action === this.cue), over: atJunction };
  }

  observe() {
    const cue = this.steps > 0 ? 0 : this.cue === 1 ? 1 : -1;
    return [cue, Number(this.steps < this.length), Number(this.steps >= this.length)];
  }

  draw(canvas) {
    const size = Math.floor(canvas.width / (this.length + 2));
    const middle = Math.floor(canvas.height / 2 - size / 2);
    const context = canvas.getContext("2d");
    const paint = (column, row, color) => {
      context.fillStyle = color;
      context.fillRect(column * size, middle + row * size, size - 1, size - 1);
    };
    context.fillStyle = COLORS.wall;
    context.fillRect(0, 0, canvas.width, canvas.height);
    for (let column = 0; column <= this.length; column += 1) paint(column, 0, COLORS.floor);
    for (const row of [-1, 1]) paint(this.length, row, COLORS.floor);
    paint(0, this.cue === 1 ? -1 : 1, COLORS.key); // the cue, which the policy sees at the first step only
    const row = this.turned === 1 ? -1 : this.turned === 2 ? 1 : 0;
    paint(Math.min(this.steps, this.length), row, COLORS.player);
  }
}

export const WORLDS = { KeyToDoor, TMaze };
