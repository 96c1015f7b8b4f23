/* Draws the bars of several series side by side, as asv requests. The pages of asv load flot-orderbars 1.0.0 for this. It
   computes with the names on an axis as if they were numbers, and then draws no bar at all. */
(function ($) {
    "use strict";

    function move(plot, series, datapoints) {
        if (!series.bars.show || series.bars.order == null) {
            return;
        }
        var orders = plot.getData().map(function (each) { return each.bars.order; });
        var middle = (Math.min.apply(null, orders) + Math.max.apply(null, orders)) / 2;
        for (var i = 0; i < datapoints.points.length; i += datapoints.pointsize) {
            datapoints.points[i] += (series.bars.order - middle) * series.bars.barWidth;
        }
    }

    $.plot.plugins.push({
        init: function (plot) { plot.hooks.processDatapoints.push(move); },
        name: "orderBars",
        options: {},
        version: "1.0",
    });
})(jQuery);
