"""What patients see who open their link: rendered here, in the NHS design system, without a line of JavaScript."""
