# %% [markdown]
# # Looking into a run of 590 agents
#
# A government of 98 ministries makes a policy, and citizens object to it. All parts are played by a script.

# %%
import pandas

from megagraph import MegaGraph, find_scenario

mega = MegaGraph("rehearsal", unsafe_programs=True)
run = await mega.start(find_scenario("policy").with_(size=590))

# %% [markdown]
# What asks, fails or works is unfolded before what is over; a folded team is a shaded strip that says when its members
# worked. In the end the page can be folded, unfolded and filtered: try `health`.

# %%
result = await run.watch()

# %% [markdown]
# ## Who worked when

# %%
run.timeline(most=12)

# %% [markdown]
# ## What it cost

# %%
run.cost("level")

# %% [markdown]
# ## Rows
#
# The tables are what a data frame takes, so every question is a line of pandas. Which agents used most?

# %%
agents = run.agents.to_pandas()
agents.nlargest(6, "input_tokens")[["agent", "lead", "level", "calls", "input_tokens", "output_tokens"]]

# %%
agents.groupby("level").agg(agents=("agent", "size"), calls=("calls", "sum"), accepted=("accepted", "sum"))

# %% [markdown]
# Which tools were asked for, in how many calls?

# %%
calls = pandas.DataFrame(run.calls)
calls["tools"].str.split(", ").explode().value_counts().head(8)

# %% [markdown]
# ## One ministry
#
# The team of one lead, its letters, and what it did step by step.

# %%
team = agents[(agents["lead"] == "health") | (agents["agent"] == "health")]
team[["agent", "role", "state", "calls", "summary"]]

# %%
letters = pandas.DataFrame(run.letters)
letters[letters["recipient"] == "health"][["sender", "kind", "text"]].head(8)

# %%
for step in run.history("health"):
    print(f"{step.address:18} {step.what[:90]}")

# %% [markdown]
# ## Trouble on the way
#
# Events say what happened: whose work was sent back, and why?

# %%
sent_back = run.events(kinds=["sent_back"])
print(len(sent_back), "times work was sent back")
for event in sent_back[:3]:
    print(f"{event.agent}: {event.data['missing'][0][:100]}")

# %% [markdown]
# ## Files

# %%
files = run.files.table().to_pandas()
print(f"{len(files):,} files, {files['bytes'].sum():,} bytes, by {files['last_agent'].nunique():,} agents")
files.nlargest(5, "bytes")

# %%
assert result.passed and len(run.agents) == 590
await mega.aclose()
