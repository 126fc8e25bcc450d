//! The law on the page.

use super::escape::escaped;
use super::numbers::{count, digits, loss, percent, power};
use crate::law::{Fit, Interval, IsoFlop, JointFit, LeaveOut};

/// The law's section as HTML.
pub fn law_section(fit: &Fit) -> String {
    let left = match fit.left_out.len() {
        0 => String::new(),
        count => format!(", {count} left out"),
    };
    let intro = format!(
        "<section id=\"law\">\n<h2>The law</h2>\n<p>Fitted to {} points of {} runs{left}. Training costs C = {} N D FLOPs here \
         ({} to {}).</p>\n",
        fit.points_used,
        fit.runs_used,
        digits(fit.cost.k),
        digits(fit.cost.k_low),
        digits(fit.cost.k_high)
    );
    let joint = fit.joint.as_ref().map(joint_table);
    let isoflop = fit.isoflop.as_ref().map(isoflop_table);
    let tables: Vec<String> = joint
        .into_iter()
        .chain(isoflop)
        .chain(fit.leave_largest_out.iter().map(leave_out_table))
        .collect();
    let problems: Vec<String> = fit
        .not_fitted
        .iter()
        .map(|problem| format!("<p class=\"small\">Not fitted: {}.</p>\n", escaped(problem)))
        .collect();
    [
        intro,
        warnings(fit),
        format!("<div class=\"columns\">\n{}</div>\n", tables.concat()),
        problems.concat(),
        left_out(fit),
        "</section>\n".to_owned(),
    ]
    .concat()
}

fn warnings(fit: &Fit) -> String {
    if fit.warnings.is_empty() {
        return String::new();
    }
    let items: String = fit
        .warnings
        .iter()
        .map(|warning| format!("<li>{}</li>\n", escaped(&sentence(&warning.text))))
        .collect::<Vec<String>>()
        .concat();
    format!("<div class=\"warnings\" role=\"note\"><h3>Read with care</h3>\n<ul>\n{items}</ul></div>\n")
}

/// A message as a sentence.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters
        .next()
        .map(|letter| letter.to_uppercase().to_string())
        .unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn joint_table(fit: &JointFit) -> String {
    let bands = fit.bands;
    let rows = [
        ("E", "loss that nothing takes away", fit.law.floor, bands.floor),
        ("A", "", fit.law.n_factor, bands.n_factor),
        ("a", "power of parameters", fit.law.n_power, bands.n_power),
        ("B", "", fit.law.d_factor, bands.d_factor),
        ("b", "power of data", fit.law.d_power, bands.d_power),
        (
            "b/(a+b)",
            "best N grows with C to this power",
            fit.n_opt_exponent,
            bands.n_opt_exponent,
        ),
        (
            "a/(a+b)",
            "best D grows with C to this power",
            fit.d_opt_exponent,
            bands.d_opt_exponent,
        ),
    ];
    let rows: String = rows
        .into_iter()
        .map(|(name, meaning, value, band)| {
            format!(
                "<tr><th scope=\"row\">{name}</th><td class=\"number\">{}</td><td class=\"number\">{}</td><td>{meaning}</td></tr>\n",
                digits(value),
                interval(band, digits)
            )
        })
        .collect::<Vec<String>>()
.concat();
    format!(
        "<div><h3>L(N, D) = E + A / N<sup>a</sup> + B / D<sup>b</sup></h3>\n<div class=\"scroll\"><table><thead><tr><th \
         scope=\"col\"></th><th scope=\"col\" class=\"number\">value</th><th scope=\"col\" class=\"number\">95 %</th><th scope=\"col\">meaning</th></tr></thead>\n\
         <tbody>{rows}</tbody></table></div>\n<p class=\"small\">The points scatter by {} % around it.</p></div>\n",
        digits(fit.residual_percent)
    )
}

fn isoflop_table(fit: &IsoFlop) -> String {
    let budgets: String = fit
        .budgets
        .iter()
        .map(|budget| {
            let cells = [
                power(budget.c),
                budget.points.to_string(),
                count(budget.n_opt),
                interval(budget.n_opt_band, count),
                count(budget.d_opt),
                loss(budget.loss),
            ];
            number_row(&cells)
        })
        .collect();
    let law = |name: &str, law: crate::law::PowerLaw, band| {
        format!(
            "<li>{name} = {} × C<sup>{:.4}</sup> <span class=\"small\">(95 %: {})</span></li>\n",
            digits_or_power(law.coefficient),
            law.exponent,
            interval(band, |value| format!("{value:.4}"))
        )
    };
    let left_out: String = fit
        .left_out
        .iter()
        .map(|text| format!("<li class=\"small\">left out: {}</li>\n", escaped(text)))
        .collect::<Vec<String>>()
        .concat();
    format!(
        "<div><h3>Best size at equal compute</h3>\n{}<ul class=\"plain\">{}{}{}{left_out}</ul></div>\n",
        table(&["C", "points", "best N", "95 %", "best D", "loss"], &budgets),
        law("N<sub>opt</sub>", fit.n_opt, fit.n_opt_band),
        law("D<sub>opt</sub>", fit.d_opt, fit.d_opt_band),
        law("L", fit.loss, fit.loss_band)
    )
}

fn leave_out_table(left: &LeaveOut) -> String {
    let heading = format!("<div><h3>Foretold without the {}</h3>\n", escaped(&left.left_out));
    if let Some(problem) = &left.problem {
        return format!(
            "{heading}<p class=\"small\">Not done: {}.</p></div>\n",
            escaped(problem)
        );
    }
    let rows: String = left
        .held_out
        .iter()
        .map(|point| {
            let verdict = match point.inside {
                Some(true) => "✓ inside",
                Some(false) => "✗ missed",
                None => "",
            };
            let cells = [
                count(point.n),
                count(point.d),
                loss(point.loss),
                loss(point.predicted),
                interval(point.band, loss),
                format!("{:+.2} %", point.error_percent),
                verdict.to_owned(),
            ];
            number_row(&cells)
        })
        .collect::<Vec<String>>()
        .concat();
    let inside = left.held_out.iter().filter(|point| point.inside == Some(true)).count();
    let share = inside as f64 / left.held_out.len().max(1) as f64;
    format!(
        "{heading}{}<p class=\"small\">From {} points. {} of the measured losses lie in the 95 % band of one more run.</p></div>\n",
        table(&["N", "D", "measured", "foretold", "95 %", "error", "band"], &rows),
        left.points,
        percent(share)
    )
}

fn left_out(fit: &Fit) -> String {
    if fit.left_out.is_empty() {
        return String::new();
    }
    let items: String = fit
        .left_out
        .iter()
        .map(|run| format!("<li>{}: {}</li>\n", escaped(&run.name), escaped(&run.reason)))
        .collect::<Vec<String>>()
        .concat();
    let count = fit.left_out.len();
    format!("<details><summary>{count} runs are not in the law</summary><ul>{items}</ul></details>\n")
}

fn table(header: &[&str], rows: &str) -> String {
    let header: String = header
        .iter()
        .map(|name| format!("<th scope=\"col\" class=\"number\">{name}</th>"))
        .collect::<Vec<String>>()
        .concat();
    format!("<div class=\"scroll\"><table><thead><tr>{header}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n")
}

fn number_row(cells: &[String]) -> String {
    let cells: String = cells
        .iter()
        .map(|cell| format!("<td class=\"number\">{cell}</td>"))
        .collect::<Vec<String>>()
        .concat();
    format!("<tr>{cells}</tr>\n")
}

fn interval(interval: Option<Interval>, name: impl Fn(f64) -> String) -> String {
    interval.map_or_else(
        || "–".to_owned(),
        |Interval { low, high }| format!("{} to {}", name(low), name(high)),
    )
}

fn digits_or_power(value: f64) -> String {
    if (1e-2..1e4).contains(&value.abs()) {
        digits(value)
    } else {
        power(value)
    }
}
