// .NET's own server and ASP.NET's pages, run by Mono: mono mono_app.exe PORT FOLDER
//
// /boom is an exception as text; /boom.aspx is ASP.NET's own page for it.
using System;
using System.Collections.Generic;
using System.IO;
using System.Net;
using System.Text;
using System.Web;
using System.Web.Hosting;

public class Pages : MarshalByRefObject {
    public string Render(string page) {
        var text = new StringWriter();
        HttpRuntime.ProcessRequest(new SimpleWorkerRequest(page, "", text));
        return text.ToString();
    }
}

class Shop {
    static int Price(Dictionary<string, int> cart, string article) {
        try {
            return cart[article];
        } catch (KeyNotFoundException error) {
            throw new InvalidOperationException("no price for " + article, error);
        }
    }

    static void Main(string[] args) {
        var pages = (Pages)ApplicationHost.CreateApplicationHost(typeof(Pages), "/", args[1]);
        var listener = new HttpListener();
        listener.Prefixes.Add("http://127.0.0.1:" + args[0] + "/");
        listener.Start();
        while (true) {
            var context = listener.GetContext();
            var text = "";
            try {
                if (context.Request.RawUrl == "/boom.aspx") {
                    text = pages.Render("boom.aspx");
                } else {
                    Price(new Dictionary<string, int>(), "pen");
                }
            } catch (Exception error) {
                text = error + "\n";
            }
            context.Response.StatusCode = 500;
            context.Response.Close(Encoding.UTF8.GetBytes(text), true);
        }
    }
}
