"""The headings under which `--help` shows options."""

INPUT = "Input"
OUTPUT = "Output"
GENERATION = "Caption generation"
CHECKS = "Checks of captions"
DIFFUSION = "Image generation"
MODEL = "Model"
PERFORMANCE = "Performance and limits"
WORKERS = "Workers"
NETWORK = "Network"
ACCESS = "Access"
ENDPOINT = "Endpoint"
BUDGET = "Budget"
SELECTION = "Selection"
# In the order in which help shows them.
HEADINGS = (
    NETWORK,
    ACCESS,
    ENDPOINT,
    BUDGET,
    SELECTION,
    INPUT,
    OUTPUT,
    GENERATION,
    CHECKS,
    DIFFUSION,
    MODEL,
    PERFORMANCE,
    WORKERS,
)
