"""Files, images, progress and parallel work: what every other package stands on."""
