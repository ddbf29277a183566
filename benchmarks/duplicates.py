"""From which similarity on do two texts say the same? Pairs written for this, by the embedding model itself.

    python benchmarks/duplicates.py [--model FOLDER]

Three kinds of pairs: the same thing said in other words; the same thing spelt a little otherwise; and two things that
differ in one word or number that matters. The last are why no threshold can decide that a text may be dropped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from toolkit.mcp_server.embeddings import load_embedder

SAME_MEANING = [
    ("The print server is restarted from the admin page.", "To restart the print server, use the admin page."),
    ("Backups run every night at two.", "Every night at 2 a.m. a backup is made."),
    ("Anna prefers tabs over spaces.", "Anna likes tabs better than spaces."),
    ("The staging database lives on host blue.", "Host blue is where the staging database is."),
    ("Invoices are paid within thirty days.", "We pay invoices in at most 30 days."),
    ("Deployments are frozen in December.", "There are no deployments in December."),
    ("The office closes at six in the evening.", "The office shuts at 6 p.m."),
    ("Use pytest for all tests.", "All tests are written with pytest."),
    ("The API key is kept in the vault.", "We store the API key in the vault."),
    ("Peter is allergic to peanuts.", "Peter has a peanut allergy."),
    ("The customer wants weekly reports.", "The customer asked for a report every week."),
    ("Logs are deleted after ninety days.", "We keep logs for 90 days and then delete them."),
    ("The meeting was moved to Thursday.", "The meeting now takes place on Thursday."),
    ("Pull requests need two approvals.", "Two people have to approve each pull request."),
    ("The build takes about ten minutes.", "A build needs roughly ten minutes."),
    ("Coal is kept in the cellar.", "The coal is stored in the cellar."),
    ("Errors are reported to the on-call engineer.", "The engineer on call gets the error reports."),
    ("Our main language is Python.", "We mainly write Python."),
    ("The contract ends in March 2027.", "In March 2027 the contract runs out."),
    ("Maria leads the design team.", "The design team is led by Maria."),
]
SPELLING = [
    ("The print server is restarted from the admin page.", "the print server is restarted from the admin page"),
    ("Backups run every night at two.", "Backups run every night at two!"),
    ("Anna prefers tabs over spaces.", "Anna prefers tabs, over spaces."),
    ("The staging database lives on host blue.", "The staging-database lives on host blue."),
    ("Use pytest for all tests.", "Use pytest for all the tests."),
    ("Logs are deleted after ninety days.", "Logs get deleted after ninety days."),
    ("The meeting was moved to Thursday.", "The meeting has been moved to Thursday."),
    ("Pull requests need two approvals.", "Pull requests need 2 approvals."),
    ("The build takes about ten minutes.", "The build takes around ten minutes."),
    ("Maria leads the design team.", "Maria is leading the design team."),
]
OTHER_MEANING = [
    ("The staging password rotates monthly.", "The production password rotates monthly."),
    ("Backups run every night at two.", "Backups run every night at three."),
    ("Anna prefers tabs over spaces.", "Anna prefers spaces over tabs."),
    ("Use tabs.", "Do not use tabs."),
    ("Peter is allergic to peanuts.", "Peter is not allergic to peanuts."),
    ("Invoices are paid within thirty days.", "Invoices are paid within sixty days."),
    ("The contract ends in March 2027.", "The contract ends in March 2028."),
    ("Never restart the billing server.", "Always restart the billing server."),
    ("Pull requests need two approvals.", "Pull requests need three approvals."),
    ("The office closes at six in the evening.", "The office closes at seven in the evening."),
    ("Maria leads the design team.", "Maria left the design team."),
    ("The meeting was moved to Thursday.", "The meeting was moved to Friday."),
    ("The server's address is 10.0.0.5.", "The server's address is 10.0.0.6."),
    ("Deployments are frozen in December.", "Deployments are allowed in December."),
    ("The customer wants weekly reports.", "The customer wants monthly reports."),
    ("Logs are deleted after ninety days.", "Logs are archived after ninety days."),
    ("The temperature limit is -5 degrees.", "The temperature limit is 5 degrees."),
    ("Coal is kept in the cellar.", "Coal is kept in the shed."),
    ("Errors are reported to the on-call engineer.", "Errors are not reported to the on-call engineer."),
    ("Our main language is Python.", "Our main language is Go."),
]
THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)


def main() -> None:
    """Print, for each threshold, which share of each kind of pair is taken for duplicates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder with the embedding model")
    embedder = load_embedder(parser.parse_args().model)
    kinds = {"same meaning": SAME_MEANING, "spelling": SPELLING, "other meaning": OTHER_MEANING}
    similarities = {}
    for name, pairs in kinds.items():
        vectors = embedder.embed([text for pair in pairs for text in pair])
        similarities[name] = np.sum(vectors[0::2] * vectors[1::2], axis=1)
        low, middle, high = np.quantile(similarities[name], (0.1, 0.5, 0.9))
        print(f"{name:14} n {len(pairs):3}   10 % {low:.3f}   median {middle:.3f}   90 % {high:.3f}")
    for threshold in THRESHOLDS:
        shares = "   ".join(f"{name} {np.mean(found >= threshold):4.0%}" for name, found in similarities.items())
        print(f"from {threshold:.2f} on: {shares}")


if __name__ == "__main__":
    main()
