// Episodes whose environment and policy live in the server that sent this page.

async function call(name, values = {}) {
  const answer = await fetch(`api/${name}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(values),
  });
  const content = await answer.json();
  if (!answer.ok) throw new Error(`${content.error.problem} (${content.error.fix})`);
  return content;
}

export const describe = () => call("describe");
export const begin = (target, seed) => call("begin", { target_return: target, seed });
export const step = () => call("step");
