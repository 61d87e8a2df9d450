<%@ Page Language="C#" Debug="true" %>
<script runat="server">
int Price(string article) { return new System.Collections.Generic.Dictionary<string, int>()[article]; }
void Page_Load() { Response.Write(Price("pen")); }
</script>
