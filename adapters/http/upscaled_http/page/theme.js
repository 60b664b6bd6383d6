// Runs before the first paint, so that a chosen theme does not flash. Without a choice the
// style sheet follows the system.
{
  const chosen = localStorage.getItem("upscaled.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
